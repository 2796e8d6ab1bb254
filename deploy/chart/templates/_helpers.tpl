{{- define "execution-api.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "execution-api.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "execution-api.metadata" -}}
name: {{ include "execution-api.fullname" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "execution-api.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .Release.Service }}
  helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "execution-api.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* What the official chart's airflow.fullname is. */}}
{{- define "execution-api.airflow" -}}
{{- .Values.airflow.fullname | default .Values.airflow.release -}}
{{- end -}}

{{- define "execution-api.configMap" -}}
{{- .Values.airflow.configMap | default (printf "%s-config" (include "execution-api.airflow" .)) -}}
{{- end -}}

{{/* A variable whose value a Secret has: name, secret, default. */}}
{{- define "execution-api.secretVariable" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret.name | default .default }}
      key: {{ .secret.key }}
{{- end -}}

{{/* What the init container checks is what the container serves with. */}}
{{- define "execution-api.container" -}}
image: {{ include "execution-api.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
  readOnlyRootFilesystem: true
env:
  {{- $release := .Values.airflow.release }}
  {{- $secrets := .Values.airflow.secrets }}
  {{- include "execution-api.secretVariable" (dict "name" "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" "secret" $secrets.metadata "default" (printf "%s-metadata" (include "execution-api.airflow" .))) | nindent 2 }}
  {{- include "execution-api.secretVariable" (dict "name" "AIRFLOW__CORE__FERNET_KEY" "secret" $secrets.fernetKey "default" (printf "%s-fernet-key" $release)) | nindent 2 }}
  {{- include "execution-api.secretVariable" (dict "name" "AIRFLOW__API_AUTH__JWT_SECRET" "secret" $secrets.jwtSecret "default" (printf "%s-jwt-secret" $release)) | nindent 2 }}
  - {name: AIRFLOW__API__HOST, value: 0.0.0.0}
  - {name: AIRFLOW__API__WORKERS, value: {{ .Values.workers | quote }}}
  {{- if .Values.tls.secret }}
  - {name: AIRFLOW__API__SSL_CERT, value: /etc/execution-api/tls/tls.crt}
  - {name: AIRFLOW__API__SSL_KEY, value: /etc/execution-api/tls/tls.key}
  {{- end }}
  - {name: AIRFLOW__EXECUTION_API_SERVICE__PORT, value: {{ .Values.port | quote }}}
  - {name: AIRFLOW__EXECUTION_API_SERVICE__METRICS_PORT, value: {{ .Values.metricsPort | quote }}}
  - {name: AIRFLOW__EXECUTION_API_SERVICE__POOL_SIZE, value: {{ .Values.poolSize | quote }}}
  - {name: AIRFLOW__EXECUTION_API_SERVICE__PGBOUNCER, value: {{ .Values.airflow.pgbouncer | quote }}}
  - {name: AIRFLOW__EXECUTION_API_SERVICE__DRAIN_SECONDS, value: {{ .Values.drainSeconds | quote }}}
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- if ne (include "execution-api.configMap" .) "-" }}
  - {name: airflow-config, mountPath: /opt/airflow/airflow.cfg, subPath: airflow.cfg, readOnly: true}
  {{- end }}
  {{- if .Values.tls.secret }}
  - {name: tls, mountPath: /etc/execution-api/tls, readOnly: true}
  {{- end }}
{{- end -}}
