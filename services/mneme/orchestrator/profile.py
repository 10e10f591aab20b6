"""How an agent is run: its own definition, completed by the deployment's settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from mneme.orchestrator.models import table
from mneme.orchestrator.models.port import ToolSpec
from mneme.orchestrator.prompt import Sampling
from mneme.orchestrator.tools import TOOLS
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.orchestrator.window import Policy
from mneme.settings import ModelsSettings, OrchestratorSettings


@dataclass(frozen=True, slots=True)
class Choice:
    """A model to ask, how, and why it was chosen."""

    sampling: Sampling
    reason: str


@dataclass(frozen=True, slots=True)
class Profile:
    """Everything the loop needs to know of an agent."""

    agent_id: str
    instructions: str
    choices: tuple[Choice, ...]
    """Models in the order in which they are tried; at least one."""
    summary_model: str
    policy: Policy
    tools: Mapping[str, ToolSpec]
    """What the model is offered: built-in tools and the caller's."""
    client_tools: Mapping[str, bool]
    """Tools that the caller executes, and whether each asks for an approval first."""
    max_steps: int
    run_timeout: timedelta
    cache_policy: pb.CachePolicy.ValueType
    shared_after_users: int
    """Users who must have asked before a shared answer is served."""
    memory_mode: pb.MemoryMode.ValueType


def profile_of(agent_id: str, definition: bytes, settings: OrchestratorSettings, models: ModelsSettings) -> Profile:
    """The profile of an agent whose definition is stored as the contract's message."""
    agent = pb.Agent.FromString(definition)
    choices = _choices(agent.model, models)
    window = _window_tokens(agent.model, choices[0].sampling, models)
    limits = agent.window
    return Profile(
        agent_id=agent_id,
        instructions=agent.instructions,
        choices=choices,
        summary_model=table.profile(limits.summary_model or models.small).model,
        policy=Policy(
            window_tokens=window,
            warn_fraction=limits.warn_fraction if limits.HasField("warn_fraction") else settings.warn_fraction,
            flush_fraction=limits.flush_fraction if limits.HasField("flush_fraction") else settings.flush_fraction,
            target_fraction=limits.target_fraction if limits.HasField("target_fraction") else settings.target_fraction,
            max_turns=limits.max_turns,
        ),
        tools=_tools(agent),
        client_tools=MappingProxyType({tool.name: tool.requires_approval for tool in agent.client_tools}),
        max_steps=agent.max_steps or settings.max_steps,
        run_timeout=agent.run_timeout.ToTimedelta() or timedelta(seconds=settings.run_timeout),
        cache_policy=agent.cache_policy,
        shared_after_users=agent.shared_after_users,
        memory_mode=agent.memory_mode,
    )


def _choices(config: pb.ModelConfig, models: ModelsSettings) -> tuple[Choice, ...]:
    """The agent's model, or the deployment's, and then its fallbacks."""
    names = [config.model or models.chat, *config.fallback_models]
    choices = []
    for index, name in enumerate(names):
        known = table.profile(name)
        info = table.model_info(known.model)
        sampling = Sampling(
            model=known.model,
            max_tokens=min(config.max_tokens or known.max_tokens, info.max_output_tokens),
            temperature=config.temperature if config.HasField("temperature") else known.temperature,
            top_p=config.top_p if config.HasField("top_p") else known.top_p,
        )
        reason = "fallback" if index else ("agent" if config.model else "default")
        choices.append(Choice(sampling, reason))
    return tuple(choices)


def _window_tokens(config: pb.ModelConfig, sampling: Sampling, models: ModelsSettings) -> int:
    """Tokens that a prompt may have: the model's window less the room for its answer, or what the agent says."""
    info = table.model_info(sampling.model, window_tokens=models.window_tokens)
    room = info.window_tokens - sampling.max_tokens
    return min(config.context_window_tokens, room) if config.context_window_tokens else room


def _tools(agent: pb.Agent) -> Mapping[str, ToolSpec]:
    chosen = set(agent.tools) or TOOLS.keys()
    offered = {name: tool for name, tool in TOOLS.items() if name in chosen}
    for tool in agent.client_tools:
        offered[tool.name] = ToolSpec(tool.name, tool.description, client_parameters(tool))
    return MappingProxyType(offered)


def client_parameters(tool: pb.ClientTool) -> Mapping[str, Any]:
    """The JSON schema of a client tool's arguments; one without arguments for an empty text.

    Raises:
        ValueError: It is no JSON.
    """
    if not tool.parameters_json:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    schema: Mapping[str, Any] = json.loads(tool.parameters_json)
    return schema
