"""The offline model: rules that drive the tool loop without any language model or network."""

from mneme.orchestrator.models.offline.model import OfflineModel as OfflineModel
from mneme.orchestrator.models.offline.model import build as build
