"""What a process keeps of answers between turns."""

from __future__ import annotations

from collections.abc import Callable

from mneme.orchestrator.answers.asking import SideAsker
from mneme.orchestrator.answers.contextual import Contextual
from mneme.orchestrator.answers.health import CacheHealth
from mneme.orchestrator.answers.judge import Judge
from mneme.orchestrator.answers.refresh import Refresher
from mneme.orchestrator.models.port import ChatModel
from mneme.runtime.component import Runtime


class Answers:
    """Whether the cache answers, which questions need their context, and what is done in the background."""

    def __init__(self, runtime: Runtime, model: ChatModel, count_tokens: Callable[[str], int]) -> None:
        settings = runtime.settings.orchestrator
        asker = SideAsker(model, runtime.database, runtime.metrics)
        self.health = CacheHealth(runtime.peers, timeout=settings.cache_timeout)
        self.contextual = Contextual()
        self.refresher = Refresher(runtime.peers, asker, settings, count_tokens)
        self.judge = Judge(
            runtime.peers, asker, runtime.metrics, model=settings.judge_model, per_minute=settings.judge_per_minute
        )

    def start(self) -> None:
        """Begins the work in the background."""
        self.judge.start()

    async def stop(self) -> None:
        """Ends it; what was being made is given up."""
        await self.refresher.stop()
        await self.judge.stop()
