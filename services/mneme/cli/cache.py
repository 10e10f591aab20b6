"""`mneme cache`: what the semantic cache holds, would serve, and may serve."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mneme.cli import output
from mneme.cli.cache_pairs import Comparer, Seen, judged_pairs, related, replay, tried
from mneme.cli.groups import Group
from mneme.client import Client
from mneme.semantic_cache.calibrating import Step, choose, steps
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb

_SHOWN_THRESHOLDS = 12
_NO_FINGERPRINT = "0" * 64

Agent = Annotated[str, typer.Option("--agent", help="Agent whose answers they are.")]
User = Annotated[str, typer.Option("--user", help="User whose answers they are. Default: those all users share.")]
Fingerprint = Annotated[
    str, typer.Option("--fingerprint", help="Hash of prompt, tools and model that entries were stored under, 64 hex.")
]

console = Console(highlight=False)
group = Group(
    "cache",
    """The semantic cache: counts, why a question hits or misses, removal, calibration, a dry run.

    Examples: `mneme cache stats` · `mneme cache explain "When do you open?" --against "When do you close?"` ·
    `mneme cache shadow questions.txt`
    """,
)


@group.command("stats")
async def stats(
    client: Client,
    agent: Annotated[str, typer.Option("--agent", help="Only this agent. Default: the whole tenant.")] = "",
    as_json: output.AsJson = False,
) -> None:
    """Show hits and misses beside what is known of their precision.

    Counts are those of the answering process since it started; the bound on wrong hits is that of all processes.

    Examples: `mneme cache stats` · `mneme cache stats --agent agent-… --json`
    """
    found = await client.semantic_cache.GetStats(pb.GetStatsRequest(agent_id=agent))
    if as_json:
        _json(MessageToDict(found, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))
        return
    _print_stats(found)


@group.command("explain")
async def explain(
    client: Client,
    question: Annotated[str, typer.Argument(help="The question.")],
    against: Annotated[
        str, typer.Option("--against", help="Compare with this question instead of with what is stored.")
    ] = "",
    agent: Agent = "",
    user: User = "",
    fingerprint: Fingerprint = _NO_FINGERPRINT,
    as_json: output.AsJson = False,
) -> None:
    """Tell what a look-up would serve and why: candidates, scores, guards, changed memory.

    With --against the two questions are compared as the cache would, whatever it holds. Exit code 1 when nothing would
    be served.

    Examples: `mneme cache explain "When do you open?" --against "What time do you close?"` ·
    `mneme cache explain "When do you open?" --agent agent-… --user ann --fingerprint 5f2a…`
    """
    if not against and not agent:
        raise ValueError("nothing to compare with: name another question with --against, or an agent with --agent")
    if against:
        comparer = await Comparer.open(client)
        shown = (await comparer.compare(question, against)).as_dict()
    else:
        key = pb.CacheKey(scope=pb.CacheScope(agent_id=agent, user_id=user), question=question, fingerprint=fingerprint)
        answer = await client.semantic_cache.Explain(pb.ExplainRequest(key=key))
        shown = MessageToDict(answer, preserving_proto_field_name=True)
    if as_json:
        _json(shown)
    else:
        _print_explained(shown)
    if "hit" not in shown:
        raise typer.Exit(1)


@group.command("invalidate")
async def invalidate(
    client: Client,
    agent: Agent = "",
    user: User = "",
    entry: Annotated[str, typer.Option("--entry", help="Remove this entry only.")] = "",
    author: Annotated[str, typer.Option("--author", help="Remove all that this author's runs made.")] = "",
    as_json: output.AsJson = False,
) -> None:
    """Remove answers: one, those of an agent (and user), or those of an author.

    Examples: `mneme cache invalidate --agent agent-…` · `mneme cache invalidate --agent agent-… --user ann` ·
    `mneme cache invalidate --entry entry-…`
    """
    if sum(map(bool, (agent, entry, author))) != 1:
        raise ValueError("say what to remove: exactly one of --agent, --entry and --author")
    request = pb.InvalidateRequest(entry_id=entry) if entry else pb.InvalidateRequest(author=author)
    if agent:
        request = pb.InvalidateRequest(scope=pb.CacheScope(agent_id=agent, user_id=user))
    removed = (await client.semantic_cache.Invalidate(request)).removed_count
    if as_json:
        _json({"removed_count": removed})
    else:
        console.print("removed; what a whole scope held is not counted" if agent else f"{removed} removed")


@group.command("calibrate")
async def calibrate(
    client: Client,
    pairs: Annotated[
        list[Path], typer.Argument(exists=True, dir_okay=False, help='JSON lines: {"q1": …, "q2": …, "same": 0 or 1}.')
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write. Default: show the table only.")
    ] = None,
    precision: Annotated[
        float, typer.Option("--precision", min=0.5, max=0.9999, help="Share of right hits to be sure of, at 95 %.")
    ] = 0.99,
    as_json: output.AsJson = False,
) -> None:
    """Find the cosine from which questions may share an answer in the active embedding space.

    Compares the pairs as the cache does, with its guards, and takes the lowest threshold at which the lower 95 % bound
    of the precision reaches --precision. Exit code 1 when none does. Put the file into the folder that the setting
    `embedding.calibration_folder` names, and restart the embedding service.

    Examples: `mneme cache calibrate pairs.jsonl` · `mneme cache calibrate pairs.jsonl --out calibration/my-model.json`
    """
    comparer = await Comparer.open(client)
    judged, cosines = await judged_pairs(comparer, pairs)
    space_id, found = comparer.space.space_id, steps(judged)
    chosen = choose(found, precision)
    if chosen is not None and out is not None:
        content = {
            "space_id": space_id,
            "related_threshold": related(cosines),
            "same_question_threshold": chosen.threshold,
            "measured": _as_dict(chosen) | {"pairs": len(judged)},
        }
        out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if as_json:
        _json({"space_id": space_id, "chosen": _as_dict(chosen), "steps": [_as_dict(step) for step in found]})
    else:
        _print_steps(space_id, found, chosen)
    if chosen is None:
        raise ValueError(
            f"no threshold is sure to reach a precision of {precision:.2%} with these {len(judged)} pairs: "
            "with too few hits even a faultless run proves little, about 300 are needed for 99 %"
        )


@group.command("shadow")
async def shadow(
    client: Client,
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="Questions in the order asked, one a line.")
    ],
    threshold: Annotated[
        float | None, typer.Option("--threshold", min=0, max=1, help="Default: the calibrated one of the space.")
    ] = None,
    as_json: output.AsJson = False,
) -> None:
    """Run a file of questions against an empty cache of one user, and show what would hit what.

    Nothing is stored and no model is called; memory is taken as unchanged, so these are the most hits there can be.

    Examples: `mneme cache shadow questions.txt` · `mneme cache shadow questions.txt --threshold 0.9 --json`
    """
    questions = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    seen = await replay(await Comparer.open(client), questions, threshold)
    if as_json:
        _json([tried(one) for one in seen])
    else:
        _print_shadow(seen)


def _json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def _as_dict(step: Step | None) -> dict[str, Any]:
    if step is None:
        return {}
    return {
        "threshold": step.threshold,
        "hits": step.hits,
        "wrong": step.wrong,
        "precision": round(step.precision, 5),
        "precision_lower_bound": round(step.precision_lower_bound, 5),
        "hit_rate": round(step.hit_rate, 5),
    }


def _table(*titles: str) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _print_stats(found: pb.GetStatsResponse) -> None:
    table = _table("what", "count")
    table.add_row("look-ups", str(found.lookup_count))
    table.add_row("hits, the same question", str(found.exact_hit_count))
    table.add_row("hits, other words", str(found.semantic_hit_count))
    for miss in found.misses:
        reason = pb.MissReason.Name(miss.reason).removeprefix("MISS_REASON_").lower().replace("_", " ")
        table.add_row(f"misses, {reason}{f' ({miss.guard})' if miss.guard else ''}", str(miss.count))
    table.add_row("stored", str(found.stored_count))
    table.add_row("tokens saved", str(found.saved_token_count))
    table.add_row("model seconds saved", f"{found.saved_seconds:.1f}")
    console.print(table)
    console.print(
        f"hit rate {found.hit_rate:.1%} · precision {found.precision:.2%}, at least "
        f"{found.precision_lower_bound:.2%} by the hits judged · limit of wrong hits {found.wrong_limit:.2%}"
    )
    if not found.available:
        console.print("[yellow]Redis does not answer: every look-up misses[/]")
    elif not found.semantic_available:
        console.print("[yellow]only the same question is answered: the space is not calibrated, or strata unread[/]")
    if found.strata:
        strata = _table("stratum", "judged", "wrong", "at most wrong", "")
        for one in found.strata:
            state = "[red]closed[/]" if one.closed else ""
            strata.add_row(
                one.stratum, str(one.judged_count), str(one.wrong_count), f"{one.wrong_upper_bound:.2%}", state
            )
        console.print(strata)


def _print_explained(shown: dict[str, Any]) -> None:
    if "hit" in shown:
        console.print(f"[green]hit[/] score {float(shown['hit'].get('score', 0)):.3f}")
    else:
        miss = shown.get("miss", {})
        reason = str(miss.get("reason", "")).removeprefix("MISS_REASON_").lower().replace("_", " ")
        console.print(f"[yellow]miss[/] {escape(reason)} {escape(miss.get('guard', ''))}".rstrip())
    table = _table("question", "score", "guards", "changed")
    for one in shown.get("candidates", []):
        guards = ", ".join(
            guard["guard"] if guard.get("passed") else f"{guard['guard']} refused: {guard.get('detail', '')}"
            for guard in one.get("guards", [])
        )
        table.add_row(
            escape(one.get("entry", {}).get("question", "")),
            f"{float(one.get('score', 0)):.3f}",
            escape(guards),
            escape(", ".join(one.get("changed_scopes", []))),
        )
    if table.row_count:
        console.print(table)


def _print_steps(space_id: str, found: Sequence[Step], chosen: Step | None) -> None:
    table = _table("threshold", "hits", "wrong", "precision", "at least", "hit rate", "")
    every = max(1, len(found) // _SHOWN_THRESHOLDS)
    for place, step in enumerate(found):
        if place % every and step is not chosen:
            continue
        table.add_row(
            f"{step.threshold:.2f}",
            str(step.hits),
            str(step.wrong),
            f"{step.precision:.2%}",
            f"{step.precision_lower_bound:.2%}",
            f"{step.hit_rate:.1%}",
            "[green]chosen[/]" if step is chosen else "",
        )
    console.print(f"space {escape(space_id)}")
    console.print(table)


def _print_shadow(seen: Sequence[Seen]) -> None:
    table = _table("question", "outcome", "of", "score", "guard")
    for one in seen:
        table.add_row(
            escape(one.question),
            one.outcome,
            escape(one.of),
            f"{one.score:.3f}" if one.of else "",
            escape(one.refusal),
        )
    console.print(table)
    hits = sum(one.is_hit for one in seen)
    console.print(f"{hits} of {len(seen)} would be served ({hits / len(seen):.1%})" if seen else "no questions")
