"""Every operation is asked on the preview too."""

from tests.previews import revision

__all__ = ["revision"]
