"""The settings of one process as a typed tree: a section for each service and each part of the runtime.

A value comes from, first match wins: an explicit override (command-line flags, tests), an environment
variable `MNEME_<SECTION>__<NAME>`, the TOML file named by `--config`, the default below. Unknown names are
refused, so a misspelt setting never passes silently. Durations are seconds, sizes are bytes unless the name
says otherwise.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict


class Section(BaseModel):
    """A group of settings that cannot change while the process runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServerSettings(Section):
    """How this process listens, what it accepts, and how it stops."""

    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` or `[::]` in a container."""
    port: int = Field(default=7600, ge=0, le=65535)
    """gRPC port; 0 takes a free one."""
    advertised_address: str = ""
    """Address `host:port` at which other replicas reach this process; empty derives it from host and port."""
    metrics_host: str = "127.0.0.1"
    """Address the metrics page listens on."""
    metrics_port: int = Field(default=-1, ge=-1, le=65535)
    """Port of `/metrics`; 0 takes a free one, -1 turns the page off."""
    reflection: bool = True
    """Lets clients list the services and their contracts."""
    reuse_port: bool = False
    """Lets several processes share the port (SO_REUSEPORT). Off, so that a taken port is an error."""
    tls_certificate: Path | None = None
    """PEM file with the server's certificate chain; with `tls_key` it turns TLS on."""
    tls_key: Path | None = None
    """PEM file with the certificate's private key."""
    max_receive_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    """Largest request message. Up to four times as much is read, so that the answer can name the field that is too
    long; beyond that gRPC itself answers RESOURCE_EXHAUSTED, without a reason."""
    max_send_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    """Largest response message."""
    max_user_calls: int = Field(default=256, ge=1)
    """Unary calls with a user credential that may run at once; more answer REASON_TOO_MANY_CALLS."""
    max_service_calls: int = Field(default=512, ge=1)
    """Unary calls from other services that may run at once. Its own bound, so that a burst of new user calls
    cannot starve the turns that already run."""
    max_streams: int = Field(default=1024, ge=1)
    """Streaming calls that may run at once."""
    default_deadline: float = Field(default=30.0, gt=0)
    """Deadline of a unary call whose caller set none."""
    default_stream_deadline: float = Field(default=900.0, gt=0)
    """Deadline of a streaming call whose caller set none."""
    max_deadline: float = Field(default=3600.0, gt=0)
    """Longest deadline of any call; a longer one is cut to it."""
    keepalive_min_interval: float = Field(default=30.0, gt=0)
    """Shortest interval at which clients may ping an idle connection."""
    max_connection_age: float = Field(default=180.0, gt=0)
    """Age at which a connection is closed gently, so that clients look for new replicas."""
    max_connection_age_grace: float = Field(default=900.0, gt=0)
    """Time that calls on an aged connection get to finish; at least the longest call."""
    ready_interval: float = Field(default=1.0, gt=0)
    """Interval between two readiness checks of a component."""
    ready_failures: int = Field(default=3, ge=1)
    """Failed checks in a row that make a serving service NOT_SERVING; one passed check makes it SERVING."""
    ready_timeout: float = Field(default=2.0, gt=0)
    """Longest time one readiness check may take."""
    drain_wait: float = Field(default=0.4, ge=0)
    """Time between announcing NOT_SERVING and refusing calls, in which clients move to other replicas."""
    drain_timeout: float = Field(default=20.0, ge=0)
    """Time that each component gets to hand over its running work."""
    stop_grace: float = Field(default=10.0, ge=0)
    """Time that running calls get to finish before they are cancelled."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> ServerSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: set both or none")
        return self


class AuthSettings(Section):
    """Whose credentials are accepted."""

    jwks: str = ""
    """JSON Web Key Set of the operator's issuer: an https URL or a file path."""
    issuer: str = "mneme-dev"
    """Required `iss` claim of a user credential."""
    audience: str = "mneme"
    """Required `aud` claim of a user credential."""
    tenant_claim: str = "tenant"
    """Claim that names the tenant; every user credential must have it."""
    user_claim: str = "user"
    """Claim that binds the credential to one user; absent for a credential that may act for any user."""
    scope_claim: str = "scope"
    """Claim with the scopes: a list, or one text with spaces between them."""
    leeway: float = Field(default=10.0, ge=0)
    """Difference between clocks that is forgiven when times in a credential are checked."""
    jwks_refresh: float = Field(default=300.0, gt=0)
    """Age at which the key set is read again."""
    jwks_min_interval: float = Field(default=10.0, gt=0)
    """Shortest time between two reads of the key set that unknown key ids cause."""
    jwks_timeout: float = Field(default=5.0, gt=0)
    """Longest time one read of the key set may take."""
    suite_keys: tuple[SecretStr, ...] = ()
    """Secrets that sign service tokens (at least 32 bytes each): the first signs, all verify, so a key is
    rotated by putting the new one last everywhere, then first, then removing the old one."""
    suite_keys_file: Path | None = None
    """File with the same secrets, one a line; read when `suite_keys` is empty."""
    service_token_seconds: float = Field(default=60.0, gt=10)
    """Life of a service token."""
    cache_size: int = Field(default=10_000, ge=1)
    """Verified credentials, and minted service tokens, that are remembered."""


class DatabaseSettings(Section):
    """The PostgreSQL database, the only source of truth."""

    url: SecretStr = SecretStr("")
    """Connection URL of the application role; empty in `mneme dev` means the embedded database."""
    owner_url: SecretStr = SecretStr("")
    """Connection URL of the role that owns the schemas; used by `mneme migrate` and maintenance only."""
    pool_min: int = Field(default=1, ge=0)
    """Connections kept open."""
    pool_max: int = Field(default=10, ge=1)
    """Connections at most, for each process."""
    pool_timeout: float = Field(default=5.0, gt=0)
    """Longest wait for a free connection."""
    connect_timeout: float = Field(default=5.0, gt=0)
    """Longest time to open a connection."""
    max_lifetime: float = Field(default=1200.0, gt=0)
    """Age at which a connection is replaced."""
    statement_timeout: float = Field(default=30.0, gt=0)
    """Longest time of one statement."""
    prepare_threshold: int | None = Field(default=5, ge=0)
    """Executions after which a statement is prepared on the server; none behind RDS Proxy or old PgBouncers."""
    direct_url: SecretStr = SecretStr("")
    """Connection URL that bypasses a transaction pooler, for notifications; empty takes `url`."""


class RedisSettings(Section):
    """Redis or Valkey, which may lose everything at any moment without making a result wrong."""

    url: SecretStr = SecretStr("")
    """Connection URL; empty in `mneme dev` means the embedded server, elsewhere no cache at all."""
    connect_timeout: float = Field(default=0.5, gt=0)
    """Longest time to open a connection."""
    command_timeout: float = Field(default=0.05, gt=0)
    """Longest time of one use of the cache, waiting for a connection included; then it counts as down."""
    max_connections: int = Field(default=32, ge=1)
    """Connections at most, for each process."""
    breaker_failures: int = Field(default=3, ge=1)
    """Failures in a row that open the circuit breaker."""
    breaker_seconds: float = Field(default=2.0, gt=0)
    """Time the breaker stays open before one command tries again."""


class TelemetrySettings(Section):
    """Logs, traces and metrics. None of them ever holds the text of a message, block or passage."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """Shape of a log line; auto is console on a terminal and JSON elsewhere."""
    otlp_endpoint: str = ""
    """OTLP/gRPC endpoint for traces, `http://collector:4317`; empty exports none."""
    sample_ratio: float = Field(default=1.0, ge=0, le=1)
    """Part of the traces that start here which is recorded; a caller's decision is followed."""
    service_namespace: str = "mneme"
    """Resource attribute `service.namespace`."""


class PeersSettings(Section):
    """Where the other services are, and how they are called."""

    default_address: str = ""
    """gRPC target of every service without an own address; empty means this process."""
    orchestrator: str = ""
    """gRPC target of orchestrator, `dns:///mneme-orchestrator:7600`."""
    core_memory: str = ""
    """gRPC target of core_memory."""
    recall: str = ""
    """gRPC target of recall."""
    archival: str = ""
    """gRPC target of archival."""
    embedding: str = ""
    """gRPC target of embedding."""
    semantic_cache: str = ""
    """gRPC target of semantic_cache."""
    tls_ca: Path | None = None
    """PEM file with the authority that signs the peers' certificates; set, it turns TLS on for all peers."""
    timeout: float = Field(default=10.0, gt=0)
    """Deadline of a call to a peer when neither the caller nor the running call sets a shorter one."""
    max_attempts: int = Field(default=4, ge=1, le=5)
    """Attempts of a call that fails with UNAVAILABLE, the first one included."""
    keepalive: float = Field(default=60.0, ge=30)
    """Interval of keepalive pings."""
    resolve_interval: float = Field(default=5.0, gt=0)
    """Shortest time between two name resolutions."""
    max_message_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    """Largest response accepted from a peer."""


class ModelsSettings(Section):
    """Which models are used, and how providers are reached. `offline` and `wordllama` need no network."""

    chat: str = "offline"
    """Model or profile that agents use unless they name one."""
    small: str = "offline"
    """Model for summaries, titles and other simple work."""
    chat_provider: Literal["", "bedrock", "openai"] = ""
    """Provider of language models that the model table does not know; empty takes openai when its base URL is set,
    else bedrock."""
    window_tokens: int = Field(default=0, ge=0)
    """Window of every language model in tokens, in place of the model table's; 0 leaves the table's."""
    request_timeout: float = Field(default=120.0, gt=0)
    """Longest silence of a provider while an answer is awaited or streams."""
    connect_timeout: float = Field(default=5.0, gt=0)
    """Longest time to open a connection to a provider."""
    max_streams: int = Field(default=64, ge=1)
    """Answers that may stream from Bedrock at once in one process; each takes a thread. More wait their turn."""
    embedding_provider: Literal["wordllama", "bedrock", "openai", "onnx"] = "wordllama"
    """Provider of the one active embedding space."""
    embedding_model: str = "wordllama"
    """Model of the active embedding space, `amazon.titan-embed-text-v2:0`."""
    embedding_dimensions: int = Field(default=256, ge=1, le=4000)
    """Dimensions of the active embedding space."""
    embedding_base_url: str = ""
    """Base URL of an OpenAI-compatible embedding provider; empty takes `openai_base_url` and its key."""
    embedding_api_key: SecretStr = SecretStr("")
    """API key for `embedding_base_url`; empty for a server that wants none."""
    next_embedding_provider: Literal["", "wordllama", "bedrock", "openai", "onnx"] = ""
    """Provider of the space that a deployment re-embeds into while the active one serves; empty for none. After the
    switch its values move to the settings above, at leisure: the database says which of the two is active."""
    next_embedding_model: str = ""
    """Model of that space."""
    next_embedding_dimensions: int = Field(default=0, ge=0, le=4000)
    """Dimensions of that space."""
    next_embedding_base_url: str = ""
    """Base URL of an OpenAI-compatible provider of that space; empty takes `openai_base_url` and its key."""
    next_embedding_api_key: SecretStr = SecretStr("")
    """API key for `next_embedding_base_url`; empty for a server that wants none."""
    rerank_model: str = ""
    """Model that looks again at what a hybrid search found; empty for none. Needs an endpoint that serves `/rerank`."""
    rerank_base_url: str = ""
    """Base URL of that endpoint, `https://host/v1`; empty takes `openai_base_url` and its key."""
    rerank_api_key: SecretStr = SecretStr("")
    """API key for `rerank_base_url`; empty for a server that wants none."""
    rerank_depth: int = Field(default=30, ge=2, le=200)
    """Results that it looks at."""
    rerank_timeout: float = Field(default=1.0, gt=0)
    """Longest wait for it in seconds; after that the results stay as they were."""
    bedrock_region: str = ""
    """AWS region of Bedrock; empty takes the one of the AWS configuration."""
    bedrock_profile: str = ""
    """Profile of the AWS configuration; empty takes the default credential chain (IRSA, Pod Identity, environment)."""
    bedrock_endpoint_url: str = ""
    """Endpoint of Bedrock's runtime API in place of the region's; for private endpoints and tests."""
    bedrock_control_endpoint_url: str = ""
    """Endpoint of Bedrock's control API, which `mneme doctor` asks, in place of the region's."""
    openai_base_url: str = ""
    """Base URL of an OpenAI-compatible provider (DeepSeek, vLLM, Ollama)."""
    openai_api_key: SecretStr = SecretStr("")
    """API key of that provider."""


class OrchestratorSettings(Section):
    """Agents, conversations and the agent loop."""

    max_concurrent_turns: int = Field(default=64, ge=1)
    """Turns that one process works on at once; more wait in their mailboxes."""
    max_steps: int = Field(default=50, ge=1, le=1000)
    """Most steps of one turn, where the agent says nothing."""
    run_timeout: float = Field(default=600.0, gt=0)
    """Longest time of one attempt at a run, waits and retries included, where the agent says nothing."""
    max_attempts: int = Field(default=5, ge=1)
    """Times a run is begun before its event becomes a dead letter: it may be what brings processes down."""
    lease_renew: float = Field(default=3.0, gt=0)
    """Interval at which a process says that it is alive."""
    lease_seconds: float = Field(default=10.0, gt=0)
    """Silence after which other processes take a process's conversations over."""
    poll_interval: float = Field(default=1.0, gt=0)
    """Interval at which waiting events, timers and operations are looked for; notifications only come earlier."""
    caller_timeout: float = Field(default=86400.0, gt=0)
    """Longest wait for an approval or for the result of a tool that the caller executes."""
    ageing: float = Field(default=60.0, gt=0)
    """Wait after which an event rises one class in its mailbox."""
    windows_kept: int = Field(default=1024, ge=0)
    """Windows of idle conversations kept in memory; others are read from recall again."""
    retry_min: float = Field(default=0.1, gt=0)
    """First wait before a service or model that did not answer is asked again; it doubles, with jitter."""
    retry_max: float = Field(default=5.0, gt=0)
    """Longest of these waits."""
    warn_fraction: float = Field(default=0.7, gt=0, le=1)
    """Share of the window from which the model is warned of memory pressure."""
    flush_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the window from which the oldest messages are evicted."""
    target_fraction: float = Field(default=0.5, gt=0, le=1)
    """Share of the window that is filled after an eviction."""
    summary_tokens: int = Field(default=600, ge=50)
    """Most tokens of the summary of evicted messages."""
    cache_timeout: float = Field(default=0.05, gt=0)
    """Longest time that a semantic cache which does not answer may cost a turn; then it is a miss."""
    cache_max_wait: float = Field(default=30.0, ge=0)
    """Longest wait for another caller's answer to the same question; above the time that a model takes for one."""
    cache_lease: float = Field(default=60.0, gt=0)
    """Time in which a question must be answered by the one whom others wait for; then another of them answers it."""
    cache_refreshes: int = Field(default=2, ge=0)
    """Answers for all users that one process makes anew at once, in the background; 0 lets them end."""
    judge_model: str = ""
    """Model that judges, in the background, samples of the answers that were served for other words; empty for none:
    then verdicts come from Feedback and JudgeSample alone."""
    judge_per_minute: float = Field(default=30.0, gt=0)
    """Samples that it judges in a minute at most, for each process."""
    operation_hold: float = Field(default=30.0, gt=0)
    """Time for which an operation belongs to the process that works on it."""


class CoreMemorySettings(Section):
    """Blocks: the text that is always in context."""


class RecallSettings(Section):
    """Messages and the in-context window."""

    query_embed_timeout: float = Field(default=2.0, gt=0)
    """Longest wait for the vector of a search; after it the search goes by words alone and says so."""
    index_batch_size: int = Field(default=64, ge=1, le=256)
    """Messages that are embedded together in the background."""
    index_linger: float = Field(default=0.1, ge=0, le=1)
    """Wait of a new message for others to be embedded with it."""
    index_poll_interval: float = Field(default=1.0, gt=0)
    """Interval at which other replicas' unfinished indexing is looked for; own work starts after the linger."""
    index_backoff_max: float = Field(default=5.0, gt=0)
    """Longest rest between two attempts to index while embedding does not answer."""
    max_age_days: int = Field(default=0, ge=0)
    """Days after which a message of any tenant goes; 0 keeps messages until a tenant's own rule, or a deletion."""
    retention_interval: float = Field(default=3600.0, gt=0)
    """Time after which an agent's messages are looked through again for those that are too old."""
    retention_batch: int = Field(default=500, ge=1, le=5000)
    """Messages that go in one transaction because of their age."""
    index_lease: float = Field(default=60.0, gt=0)
    """Time after which the claimed messages of a dead worker are taken over."""
    index_attempts: int = Field(default=5, ge=1)
    """Attempts after which a text counts as failed that cannot be embedded although others can; one that the model
    refuses does so at once. A failed text is found by words, and tried again after `index_retry_failed`."""
    index_retry_failed: float = Field(default=86_400.0, gt=0)
    """Time after which a text that failed is tried again."""


class ArchivalSettings(Section):
    """Passages and knowledge bases."""

    embed_timeout: float = Field(default=5.0, gt=0)
    """Longest wait for a vector; then an insert is accepted without one and a search goes by words alone."""
    chunk_over: int = Field(default=8000, ge=1000)
    """Characters above which the text of an item is cut into pieces, unless its vector comes with it."""
    chunk_chars: int = Field(default=1600, ge=100, le=20_000)
    """Most characters of a piece, where the caller names none; a tenth of it repeats the piece before."""
    near_score: float = Field(default=0.9, ge=0, le=1)
    """Least cosine at which a stored passage is reported as a near duplicate; depends on the embedding model."""
    search_depth: int = Field(default=200, ge=200, le=2000)
    """Candidates that a search ranks, by meaning and again by words."""
    words_weight: float = Field(default=0.7, ge=0, le=1)
    """Largest weight of words beside meaning in a hybrid search; it falls when the words cover little of the query."""
    recency_weight: float = Field(default=0.1, ge=0, le=1)
    """Part of a hybrid score that age can take away."""
    recency_days: float = Field(default=180.0, gt=0)
    """Age in days at which two thirds of that part are gone."""
    importance_weight: float = Field(default=0.1, ge=0, le=1)
    """How far a passage's importance moves its hybrid score: down for 0, up for 1."""
    index_poll_interval: float = Field(default=1.0, gt=0)
    """Longest time between two looks at the passages that wait for a vector."""
    index_backoff_max: float = Field(default=5.0, gt=0)
    """Longest pause of indexing while the embedding service fails."""
    index_lease: float = Field(default=60.0, gt=0)
    """Time after which the claimed passages of a dead worker are taken over."""
    index_batch_size: int = Field(default=128, ge=1, le=256)
    """Passages that one worker claims at once."""
    index_attempts: int = Field(default=5, ge=1)
    """Attempts after which a text counts as failed that cannot be embedded although others can; one that the model
    refuses does so at once. A failed text is found by words, and tried again after `index_retry_failed`."""
    index_retry_failed: float = Field(default=86_400.0, gt=0)
    """Time after which a text that failed is tried again."""


class TenantShare(Section):
    """What one tenant may have of the embedding provider."""

    weight: float = Field(default=1.0, gt=0)
    """Share beside other tenants that wait at the same time; 2 gets twice as much as 1."""
    tokens_per_minute: int | None = Field(default=None, ge=0)
    """Quota in place of `tokens_per_minute` of all; 0 for no limit."""


class EmbeddingSettings(Section):
    """Text to vector."""

    calibration_folder: Path | None = None
    """Folder with files that `mneme cache calibrate` wrote, read at the start; for a space that has one there, they
    count in place of those that come with the package."""
    space_poll: float = Field(default=2.0, gt=0)
    """Interval at which a process says which spaces it serves, and looks which one is active. A process that was not
    heard of for three of them is taken for dead when the deployment switches."""
    cache_seconds: float = Field(default=3600.0, gt=0)
    """Life of a vector in the cache."""
    cache_timeout: float = Field(default=0.2, gt=0)
    """Longest time to read or write the vectors of one call in the cache; then it is asked the provider."""
    join_wait: float = Field(default=1.0, ge=0)
    """Longest wait for a vector that another process asks the provider for already; 0 never waits."""
    provider_concurrency: int = Field(default=16, ge=1)
    """Most calls of the provider that run at once, for each process; fewer while it throttles."""
    provider_timeout: float = Field(default=10.0, gt=0)
    """Longest time of one call of the provider."""
    provider_attempts: int = Field(default=3, ge=1)
    """Attempts for a text while the provider does not answer, the first one included; throttled calls do not count."""
    gather_window: float = Field(default=0.005, ge=0, le=1)
    """Wait of a text for others to share a call with, where the model takes several and calls run already."""
    breaker_failures: int = Field(default=5, ge=1)
    """Calls in a row without an answer after which the provider is left alone and callers learn it at once."""
    breaker_seconds: float = Field(default=5.0, gt=0)
    """Time for which it is left alone, before one call looks whether it is back."""
    tokens_per_minute: int = Field(default=0, ge=0)
    """Tokens, by an estimate of four bytes each, that a tenant may have embedded in a minute; cached texts are free.
    All processes count together in Redis, each for itself while that is away. 0 for no limit."""
    tenants: dict[str, TenantShare] = {}
    """Tenants that have another share or quota than the others, by name."""
    dollars_per_million_tokens: float | None = Field(default=None, ge=0)
    """Price by which the saved cost is counted; none takes the published one of a model that is known."""
    max_tokens: int = Field(default=8192, ge=1)
    """Most tokens of one text, for a model of an OpenAI-compatible provider; of `onnx`, where it takes fewer."""
    batch_size: int = Field(default=64, ge=1, le=2048)
    """Most texts of one call, for a model of an OpenAI-compatible provider."""
    onnx_folder: Path | None = None
    """Folder of the models of provider `onnx`, each in a folder of its own name: `model.onnx`, `tokenizer.json`."""


class SemanticCacheSettings(Section):
    """Answers to questions asked before."""

    entry_seconds: float = Field(default=1800.0, gt=0)
    """Longest life of an entry; serving never prolongs it."""
    entry_jitter: float = Field(default=0.1, ge=0, lt=1)
    """Part of that life by which entries end earlier, at random, so that they do not end together."""
    lease_seconds: float = Field(default=60.0, gt=0)
    """Time in which an acquired question must be answered, when the caller names none."""
    lease_seconds_max: float = Field(default=600.0, gt=0)
    """Longest such time that a caller may name; a longer one is cut to it."""
    answer_bytes_max: int = Field(default=65_536, ge=1)
    """Largest answer that is stored."""
    redis_concurrency: int = Field(default=16, ge=1)
    """Uses of Redis at once, for each process; below `redis.max_connections`."""
    threshold: float | None = Field(default=None, gt=0, le=1)
    """Cosine from which two questions may have the same answer, in place of the space's calibrated one (0.85 for Titan
    V2); a space without a calibration is not compared whatever this says."""
    candidates: int = Field(default=8, ge=8, le=100)
    """Nearest entries that a look-up considers."""
    embed_timeout: float = Field(default=0.5, gt=0)
    """Longest wait for the vector of a question; then only the same question is found."""
    check_timeout: float = Field(default=0.05, gt=0)
    """Longest time to ask whether what was written to a knowledge base concerns an answer."""
    exact_entries: int = Field(default=10_000, ge=0)
    """Entries of a scope up to which all are compared, where this process finds neighbours itself; above it a graph."""
    index_bytes: int = Field(default=512 * 1024 * 1024, ge=1024)
    """Most memory of one process for finding neighbours; the scopes asked longest ago leave."""
    tenant_bytes: int = Field(default=256 * 1024 * 1024, ge=1024)
    """Most bytes of one tenant's entries; above it the least worthy go."""
    refresh_fraction: float = Field(default=0.8, gt=0, le=1)
    """Part of an entry's life after which one caller is asked to make the answer anew; 1 for never."""
    wrong_limit: float = Field(default=0.01, gt=0, lt=1)
    """Share of wrong answers above which a stratum closes itself (one-sided 95 % bound)."""
    strata_seconds: float = Field(default=2.0, gt=0)
    """Age at which the closed strata are read again; at five times that age nothing is served to other words."""
    sample_rate: float = Field(default=0.05, ge=0, le=1)
    """Part of the answers served to other words that are offered for judging."""
    samples_max: int = Field(default=1000, ge=0)
    """Pairs of one tenant that wait to be judged at most; more are not kept."""
    verifier_model: str = ""
    """Model of the OpenAI-compatible provider that must agree before an answer is served to other words; empty for
    none. Where it does not answer in time, nothing is served."""
    verifier_timeout: float = Field(default=1.0, gt=0)
    """Longest wait for its answer."""


class MaintenanceSettings(Section):
    """The job under the owner role: `mneme maintain`, and inside `mneme dev`."""

    exact_rows: int = Field(default=3000, ge=256)
    """Vectors of a scope (an agent, a knowledge base) above which it gets its own index; below, a search compares all.
    An index goes when half as many are left."""
    fold_rows: int = Field(default=1000, ge=1)
    """New vectors of such a scope that are compared one by one before they go into its index."""
    build_memory_mb: int = Field(default=512, ge=64)
    """Memory of one index build in MB; a graph that does not fit is built several times slower."""
    interval: float = Field(default=5.0, gt=0)
    """Pause between two passes."""
    reembed_concurrency: int = Field(default=4, ge=1, le=64)
    """Scopes that `mneme reembed` works on at once, each with one request to the embedding service."""


class Settings(BaseSettings):
    """All settings of one process."""

    model_config = SettingsConfigDict(
        env_prefix="MNEME_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    data_dir: Path | None = None
    """Folder of the embedded stores and the development credentials; used by `mneme dev` only."""
    server: ServerSettings = ServerSettings()
    """How this process listens, what it accepts, and how it stops."""
    auth: AuthSettings = AuthSettings()
    """Whose credentials are accepted."""
    database: DatabaseSettings = DatabaseSettings()
    """The PostgreSQL database."""
    redis: RedisSettings = RedisSettings()
    """Redis or Valkey."""
    telemetry: TelemetrySettings = TelemetrySettings()
    """Logs, traces and metrics."""
    peers: PeersSettings = PeersSettings()
    """Where the other services are."""
    models: ModelsSettings = ModelsSettings()
    """Which models are used."""
    orchestrator: OrchestratorSettings = OrchestratorSettings()
    """Agents, conversations and the agent loop."""
    core_memory: CoreMemorySettings = CoreMemorySettings()
    """Blocks."""
    recall: RecallSettings = RecallSettings()
    """Messages and the in-context window."""
    archival: ArchivalSettings = ArchivalSettings()
    """Passages and knowledge bases."""
    embedding: EmbeddingSettings = EmbeddingSettings()
    """Text to vector."""
    semantic_cache: SemanticCacheSettings = SemanticCacheSettings()
    """Answers to questions asked before."""
    maintenance: MaintenanceSettings = MaintenanceSettings()
    """The job under the owner role."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Puts the TOML file, which arrives as the initial value `config_file`, below the environment."""
        assert isinstance(init_settings, InitSettingsSource)
        from_file = init_settings.init_kwargs.pop("config_file", {})
        return init_settings, env_settings, InitSettingsSource(settings_cls, from_file)


def load(config: Path | None = None, overrides: dict[str, Any] | None = None) -> Settings:
    """Returns the effective settings.

    Args:
        config: TOML file with one table a section; None for none.
        overrides: Values above all other sources, nested by section: `{"server": {"port": 0}}`.

    Raises:
        pydantic.ValidationError: A value is wrong or a name unknown; its text names the setting.
        OSError: The file cannot be read.
        tomllib.TOMLDecodeError: The file is not TOML.
    """
    from_file = tomllib.loads(config.read_text(encoding="utf-8")) if config else {}
    return Settings(**(overrides or {}), config_file=from_file)  # type: ignore[call-arg]


def masked(settings: Settings) -> dict[str, Any]:
    """Returns the tree as plain JSON values with every secret replaced by asterisks; for `mneme config`."""
    return {key: _masked(value) for key, value in settings.model_dump(mode="json").items()}


def without_credentials(url: str) -> str:
    """Returns a URL without its user and password."""
    return re.sub(r"(?<=://)[^/@\s]+@", "**********@", url)


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _masked(inner) for key, inner in value.items()}
    return without_credentials(value) if isinstance(value, str) else value
