-- An Airflow that does not exist, made of 3.3's tables: close to how its next release keeps tries, XComs and rendered fields.
BEGIN;

-- A column has another name, and names a task instance only together with another.
ALTER TABLE task_instance RENAME COLUMN map_index TO region_index;
ALTER TABLE task_instance ADD COLUMN region_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';
ALTER TABLE task_state_store RENAME COLUMN map_index TO region_index;
ALTER TABLE task_state_store ADD COLUMN region_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';
ALTER TABLE task_state_store DROP CONSTRAINT task_state_store_uq;
ALTER TABLE task_state_store
    ADD CONSTRAINT task_state_store_uq UNIQUE (dag_run_id, task_id, region_id, region_index, key);
CREATE TABLE dynamic_region (id uuid PRIMARY KEY, dag_id varchar(250), run_id varchar(250), node_id varchar(250));

-- Every try is a row of its own, and there is no history beside it.
DROP TABLE hitl_detail_history, task_instance_history, task_map, rendered_task_instance_fields;
ALTER TABLE task_instance DROP COLUMN span_status;
ALTER TABLE dag_run DROP COLUMN span_status;
ALTER TABLE task_instance ADD COLUMN working_set boolean DEFAULT true, ADD COLUMN archived_reason varchar(50);
ALTER TABLE task_instance DROP CONSTRAINT task_instance_composite_key CASCADE;
ALTER TABLE task_instance ADD CONSTRAINT task_instance_current_key
    UNIQUE (dag_id, task_id, run_id, region_id, region_index, working_set);
ALTER TABLE task_instance ADD CONSTRAINT task_instance_try_key
    UNIQUE (dag_id, task_id, run_id, region_id, region_index, try_number);

-- A table is two: what was written before is found through who owns it now.
ALTER TABLE xcom RENAME TO xcom_v1;
ALTER TABLE xcom_v1 ADD COLUMN mapped_length integer;
CREATE TABLE legacy_task_data_owner (
    dag_id varchar(250), task_id varchar(250), run_id varchar(250), map_index integer,
    task_instance_id uuid NOT NULL REFERENCES task_instance (id) ON DELETE CASCADE,
    PRIMARY KEY (dag_id, task_id, run_id, map_index)
);
CREATE TABLE xcom_v2 (
    id uuid PRIMARY KEY,
    task_instance_id uuid NOT NULL REFERENCES task_instance (id) ON DELETE CASCADE,
    key varchar(512) NOT NULL,
    value jsonb,
    "timestamp" timestamptz NOT NULL,
    dag_result boolean,
    mapped_length integer CHECK (mapped_length >= 0),
    UNIQUE (task_instance_id, key)
);
CREATE TABLE rtif_v2 (
    id uuid PRIMARY KEY,
    task_instance_id uuid NOT NULL UNIQUE REFERENCES task_instance (id) ON DELETE CASCADE,
    rendered_fields json NOT NULL,
    k8s_pod_yaml json
);
UPDATE alembic_version SET version_num = 'invented';
COMMIT;
