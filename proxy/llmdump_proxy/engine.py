"""What all sessions of a proxy process share: settings, tables, recorder, counters, and the way to backends."""

from llmdump.metrics import END_REASONS, SHORT_S, Histogram
from llmdump.secrets import Secrets
from llmdump.settings import Settings
from llmdump_proxy.plans import Plans
from llmdump_proxy.ports import Upstreams
from llmdump_proxy.recorder import Recorder
from llmdump_proxy.routes import Routes
from llmdump_proxy.rules import Rules
from llmdump_proxy.trusted import Trusted


class Clock:
    """Monotonic seconds, moved on a few times a second: reading it in the hot path is an attribute."""

    __slots__ = ("now",)

    def __init__(self, now: float) -> None:
        self.now = now


class Stats:
    """Counters of one proxy process; see `llmdump.metrics` for their meaning."""

    def __init__(self) -> None:
        self.client_bytes = 0
        self.upstream_bytes = 0
        self.open_exchanges = 0
        self.unrecorded = 0
        self.refused_connections = 0
        self.ends = dict.fromkeys(END_REASONS, 0)
        self.own_first_s = Histogram(SHORT_S)
        self.own_worst_s = Histogram(SHORT_S)
        self.own_sum_s = Histogram(SHORT_S)
        self.dial_s = Histogram(SHORT_S)

    def began(self, *, recorded: bool) -> None:
        """An exchange has begun."""
        self.open_exchanges += 1
        self.unrecorded += not recorded

    def ended(self, reason: str, own_ns: tuple[int, int, int]) -> None:
        """An exchange has ended."""
        self.open_exchanges -= 1
        self.ends[reason] += 1
        if not own_ns[2]:
            return  # nothing was passed on, so there is no time to tell
        self.own_first_s.observe(own_ns[0] / 1e9)
        self.own_worst_s.observe(own_ns[1] / 1e9)
        self.own_sum_s.observe(own_ns[2] / 1e9)


class Engine:
    """One per process."""

    def __init__(self, settings: Settings, recorder: Recorder, upstreams: Upstreams, stats: Stats, now: float) -> None:
        """Raises RouteError, RuleError, TrustedError."""
        self.settings = settings
        self.recorder = recorder
        self.clock = Clock(now)
        self.leaving = False
        """Whether this process is to serve no further exchange on the connections it has."""
        self.capture_full = False
        """With `on_overflow: block`: whether clients wait now until records have room, those that come too."""
        self.stats = stats
        self.routes = Routes(settings)
        self.rules = Rules(settings.capture_rules)
        self.trusted = Trusted(settings.trusted_proxies)
        self.secrets = Secrets(
            settings.capture_secret_headers, settings.capture_secret_query, keep=settings.capture_secrets == "keep"
        )
        self.take_upstream = upstreams.take
        self.leave_upstream = upstreams.leave
        self.dial = upstreams.dial
        self.reset = upstreams.reset
        self.has_died = upstreams.has_died
        self.plans = Plans(self.routes, self.rules, self.secrets)
        self._sessions = 0

    def session_name(self) -> str:
        """A name for one more client connection, unique among all proxies."""
        self._sessions += 1
        return f"{self.recorder.instance[:8]}-{self._sessions}"
