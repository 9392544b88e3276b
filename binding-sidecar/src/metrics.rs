//! What Prometheus reads: hook calls, supervision, and each translator's own counters, asked for when we are. It must
//! never keep a translator's numbers: those of one that does not answer are left out.
//!
//! The text is OpenMetrics 1.0, which Prometheus reads as well as its own format. [`METRICS`] is the list of names, and
//! `docs/metrics.md` repeats it; names stay.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::translator::control::Stats;
use crate::translator::{Entry, Phase};

/// What the sidecar counts by itself. Copies count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    calls: Arc<Mutex<Calls>>,
    started: SystemTime,
}

/// Which hook calls there were.
#[derive(Debug, Default)]
struct Calls {
    answered: BTreeMap<HookCall, u64>,
    took: BTreeMap<&'static str, Histogram>,
}

/// A kind of hook call, as counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HookCall {
    /// As KubeVirt calls it: `OnDefineDomain`.
    pub call: &'static str,
    /// Of the API: `v1alpha3`.
    pub version: &'static str,
    /// `ok`, or the status code in lower case: `invalid_argument`.
    pub outcome: &'static str,
}

impl Metrics {
    /// All zero, from now on.
    pub fn new() -> Self {
        Self { calls: Arc::default(), started: SystemTime::now() }
    }

    /// A call was answered that had nothing to wait for.
    pub fn instant_hook_call(&self, call: HookCall) {
        *self.lock().answered.entry(call).or_default() += 1;
    }

    /// A call was answered after `took`.
    pub fn hook_call(&self, call: HookCall, took: Duration) {
        let mut calls = self.lock();
        *calls.answered.entry(call).or_default() += 1;
        let histogram = calls.took.entry(call.call).or_insert_with(|| Histogram::new(CALL_SECONDS));
        histogram.observe(took.as_secs_f64());
    }

    /// How many of each there were.
    pub fn hook_calls(&self) -> Vec<(HookCall, u64)> {
        self.lock().answered.iter().map(|(call, count)| (*call, *count)).collect()
    }

    /// When the process started, as far as anybody can tell.
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// The text, with translators as they were read just now.
    pub fn text(&self, translators: Vec<(Entry, Option<Stats>)>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape { metrics: self.clone(), translators }));
        let mut text = String::new();
        // A string takes everything.
        let _ = text::encode(&mut text, &registry);
        text
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// What [`Metrics::text`] is served as.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A name, with what it stands for.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// As it is queried.
    pub name: &'static str,
    /// With its unit, where the name does not say it.
    pub help: &'static str,
    pub source: Source,
}

/// Where a metric's values come from; decides its type and its labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Build,
    Started,
    HookCalls,
    HookCallSeconds,
    Up,
    Restarts,
    Drops,
    /// A number of the translator's, by JSON pointer, that never falls.
    Counter(&'static str),
    /// One that rises and falls.
    Gauge(&'static str),
}

impl Source {
    pub fn metric_type(self) -> MetricType {
        match self {
            Self::Build => MetricType::Info,
            Self::Started | Self::Up | Self::Gauge(_) => MetricType::Gauge,
            Self::HookCalls | Self::Restarts | Self::Drops | Self::Counter(_) => MetricType::Counter,
            Self::HookCallSeconds => MetricType::Histogram,
        }
    }

    pub fn labels(self) -> &'static [&'static str] {
        match self {
            Self::Build => &["version"],
            Self::Started => &[],
            Self::HookCalls => &["call", "version", "outcome"],
            Self::HookCallSeconds => &["call"],
            Self::Restarts | Self::Drops => &["interface", "reason"],
            Self::Up | Self::Counter(_) | Self::Gauge(_) => &["interface"],
        }
    }
}

impl Metric {
    /// The name of the family: what the type adds to a sample's name is not in it.
    fn family(&self) -> &'static str {
        let suffix = match self.source.metric_type() {
            MetricType::Counter => "_total",
            MetricType::Info => "_info",
            MetricType::Gauge | MetricType::Histogram | MetricType::Unknown => "",
        };
        self.name.strip_suffix(suffix).unwrap_or(self.name)
    }
}

/// One reading.
#[derive(Debug)]
struct Scrape {
    metrics: Metrics,
    translators: Vec<(Entry, Option<Stats>)>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in METRICS {
            let family = metric.family();
            let kind = metric.source.metric_type();
            self.encode_one(metric.source, encoder.encode_descriptor(family, metric.help, None, kind)?)?;
        }
        Ok(())
    }
}

impl Scrape {
    fn encode_one(&self, source: Source, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match source {
            Source::Build => Info::new([("version", env!("CARGO_PKG_VERSION"))]).encode(encoder),
            Source::Started => {
                let since = self.metrics.started.duration_since(UNIX_EPOCH).unwrap_or_default();
                ConstGauge::new(since.as_secs_f64()).encode(encoder)
            }
            Source::HookCalls => self.metrics.hook_calls().into_iter().try_for_each(|(call, count)| {
                let labels = [("call", call.call), ("version", call.version), ("outcome", call.outcome)];
                ConstCounter::new(count).encode(encoder.encode_family(&labels)?)
            }),
            Source::HookCallSeconds => self
                .metrics
                .lock()
                .took
                .iter()
                .try_for_each(|(call, took)| took.encode(encoder.encode_family(&[("call", *call)])?)),
            Source::Up => self.translators.iter().try_for_each(|(entry, stats)| {
                let up = u64::from(stats.is_some() && matches!(entry.phase, Phase::Running { .. }));
                ConstGauge::new(up).encode(encoder.encode_family(&interface(entry))?)
            }),
            Source::Restarts => self.translators.iter().try_for_each(|(entry, _)| {
                entry.restarts.iter().try_for_each(|(reason, count)| {
                    let labels = [("interface", entry.interface.as_str()), ("reason", reason.as_str())];
                    ConstCounter::new(*count).encode(encoder.encode_family(&labels)?)
                })
            }),
            Source::Drops => self.answering().try_for_each(|(entry, stats)| {
                stats.drops().try_for_each(|(reason, count)| {
                    let labels = [("interface", entry.interface.as_str()), ("reason", reason)];
                    ConstCounter::new(count).encode(encoder.encode_family(&labels)?)
                })
            }),
            Source::Counter(pointer) => self.numbers(pointer).try_for_each(|(entry, number)| {
                ConstCounter::new(number).encode(encoder.encode_family(&interface(entry))?)
            }),
            Source::Gauge(pointer) => self.numbers(pointer).try_for_each(|(entry, number)| {
                ConstGauge::new(number).encode(encoder.encode_family(&interface(entry))?)
            }),
        }
    }

    fn answering(&self) -> impl Iterator<Item = (&Entry, &Stats)> {
        self.translators.iter().filter_map(|(entry, stats)| Some((entry, stats.as_ref()?)))
    }

    fn numbers(&self, pointer: &'static str) -> impl Iterator<Item = (&Entry, u64)> {
        self.answering().filter_map(move |(entry, stats)| Some((entry, stats.number(pointer)?)))
    }
}

fn interface(entry: &Entry) -> [(&'static str, &str); 1] {
    [("interface", entry.interface.as_str())]
}

/// Upper bounds of calls' times: a call that starts translators takes some tens of milliseconds, one that gives up on them
/// five seconds and more; after a minute virt-launcher has given up.
const CALL_SECONDS: [f64; 11] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0];

const fn ours(name: &'static str, source: Source, help: &'static str) -> Metric {
    Metric { name, help, source }
}

const fn counter(name: &'static str, pointer: &'static str, help: &'static str) -> Metric {
    Metric { name, help, source: Source::Counter(pointer) }
}

const fn gauge(name: &'static str, pointer: &'static str, help: &'static str) -> Metric {
    Metric { name, help, source: Source::Gauge(pointer) }
}

/// Every name there is. `docs/control-socket.md` explains what translators count.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    ours("sluice_build_info", Source::Build, "version of the sidecar; always 1"),
    ours("process_start_time_seconds", Source::Started, "when the sidecar started, since 1970"),
    ours("sluice_hook_calls_total", Source::HookCalls, "hook calls answered"),
    ours("sluice_hook_call_duration_seconds", Source::HookCallSeconds, "time from a hook call to its answer; only of calls about a domain"),
    ours("sluice_translator_up", Source::Up, "1: the translator runs and answers"),
    ours("sluice_translator_restarts_total", Source::Restarts, "times the translator was started again, by how the one before ended"),
    counter("sluice_cable_from_guest_frames_total", "/cable/from_guest_frames", "frames from the guest; a segment that the device cuts is one"),
    counter("sluice_cable_from_guest_bytes_total", "/cable/from_guest_bytes", "bytes from the guest, Ethernet headers included"),
    counter("sluice_cable_to_guest_frames_total", "/cable/to_guest_frames", "frames to the guest"),
    counter("sluice_cable_to_guest_bytes_total", "/cable/to_guest_bytes", "bytes to the guest, Ethernet headers included"),
    counter("sluice_cable_lost_frames_total", "/cable/lost_frames", "TCP segments that the guest's end refused; sent again"),
    counter("sluice_cable_link_ups_total", "/cable/link_ups", "times a guest was attached"),
    counter("sluice_tcp_from_guest_total", "/tcp/from_guest_total", "connections asked for by the guest"),
    counter("sluice_tcp_from_host_total", "/tcp/from_host_total", "connections accepted on forwarded ports"),
    counter("sluice_tcp_connect_failures_total", "/tcp/connect_failures_total", "connections that the peer refused or did not answer"),
    counter("sluice_tcp_resets_from_guest_total", "/tcp/resets_from_guest_total", "resets by the guest that ended a connection"),
    counter("sluice_tcp_resets_to_guest_total", "/tcp/resets_to_guest_total", "resets sent to the guest"),
    counter("sluice_tcp_lost_told_total", "/tcp/lost_told_total", "segments about connections of a translator that was killed"),
    counter("sluice_tcp_retransmits_total", "/tcp/retransmits_total", "frames sent to the guest again"),
    counter("sluice_tcp_spilled_bytes_total", "/tcp/spilled_bytes_total", "bytes that waited for a peer that does not read"),
    counter("sluice_tcp_refused_at_limit_total", "/tcp/refused_at_limit_total", "connections refused for want of descriptors or flows"),
    counter("sluice_tcp_half_open_evicted_total", "/tcp/half_open_evicted_total", "connections reset before the guest answered, to make room"),
    counter("sluice_udp_from_guest_total", "/udp/from_guest_total", "UDP flows begun by the guest"),
    counter("sluice_udp_from_host_total", "/udp/from_host_total", "UDP flows begun on forwarded ports"),
    counter("sluice_udp_port_replaced_total", "/udp/port_replaced_total", "UDP flows whose peers see another source port than the guest's"),
    counter("sluice_echo_from_guest_total", "/echo/from_guest_total", "pairs of identifier and destination that the guest pinged"),
    counter("sluice_datagram_errors_to_guest_total", "/datagram/errors_to_guest_total", "ICMP errors about datagrams and pings told to the guest"),
    counter("sluice_datagram_reassembled_total", "/datagram/reassembled_total", "datagrams that came from the guest in fragments and are whole"),
    counter("sluice_datagram_fragmented_total", "/datagram/fragmented_total", "datagrams sent to the guest in fragments"),
    ours("sluice_drops_total", Source::Drops, "frames and datagrams dropped, by reason"),
    gauge("sluice_flows", "/flows", "flows open now, of all kinds"),
    gauge("sluice_flows_limit", "/flows_limit", "most flows there may be"),
    gauge("sluice_datagram_flows", "/datagram_flows", "UDP and echo flows open now"),
    gauge("sluice_datagram_flows_limit", "/datagram_flows_limit", "most UDP and echo flows there may be"),
    gauge("sluice_half_open", "/half_open", "connections that the guest did not answer yet"),
    gauge("sluice_half_open_limit", "/half_open_limit", "most of them there may be"),
    gauge("sluice_waiting_for_guest", "/waiting_for_guest", "flows with something for a guest whose end has no room"),
    gauge("sluice_reassembly_bytes", "/reassembly_bytes", "memory for fragments of datagrams that are not complete"),
    gauge("sluice_reassembly_limit_bytes", "/reassembly_limit_bytes", "most of it there may be"),
    gauge("sluice_spill_bytes", "/spill_bytes", "memory for bytes that peers do not read"),
    gauge("sluice_spill_limit_bytes", "/spill_limit_bytes", "most of it there may be"),
    gauge("sluice_retained_bytes", "/retained_bytes", "bytes sent to the guest and not acknowledged"),
    gauge("sluice_retained_limit_bytes", "/retained_limit_bytes", "most of them there may be"),
];

#[cfg(test)]
mod tests {
    use super::*;

    const OK: HookCall = HookCall { call: "OnDefineDomain", version: "v1alpha3", outcome: "ok" };

    fn entry(phase: Phase) -> Entry {
        Entry {
            interface: "default".to_owned(),
            pod_interface: "eth0".to_owned(),
            socket: "/s".into(),
            control: "/c".into(),
            phase,
            restarts: BTreeMap::from([("SIGKILL".to_owned(), 2)]),
            last_end: None,
        }
    }

    fn running() -> Phase {
        Phase::Running { pid: 1, since: std::time::Instant::now() }
    }

    #[test]
    fn the_page_about_metrics_has_exactly_these_rows() {
        let page = include_str!("../../docs/metrics.md");
        let ours = |line: &&str| line.starts_with("| `sluice_") || line.starts_with("| `process_");
        let rows: Vec<_> = page.lines().filter(ours).map(str::to_owned).collect();
        let expected: Vec<_> = METRICS
            .iter()
            .map(|metric| {
                let kind = metric.source.metric_type();
                let labels = metric.source.labels().join(", ");
                let kind = kind.as_str();
                format!("| `{}` | {kind} | {labels} | {} |", metric.name, metric.help).replace("|  |", "| |")
            })
            .collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn names_say_type_and_unit_as_prometheus_has_it() {
        for metric in METRICS {
            let kind = metric.source.metric_type();
            assert_eq!(metric.name.ends_with("_total"), kind.as_str() == "counter", "{}", metric.name);
            assert_eq!(metric.name.ends_with("_info"), kind.as_str() == "info", "{}", metric.name);
            assert!(!metric.name.contains("_ms") && !metric.name.contains("__"), "{}", metric.name);
        }
    }

    #[test]
    fn calls_are_counted_and_timed() {
        let metrics = Metrics::new();
        metrics.hook_call(OK, Duration::from_millis(7));
        metrics.clone().hook_call(OK, Duration::from_secs(60));
        metrics.hook_call(OK, Duration::from_secs(61));
        let shutdown = HookCall { call: "Shutdown", ..OK };
        metrics.instant_hook_call(shutdown);
        assert_eq!(metrics.hook_calls(), [(OK, 3), (shutdown, 1)]);
        let text = metrics.text(Vec::new());
        for line in [
            r#"sluice_hook_calls_total{call="OnDefineDomain",version="v1alpha3",outcome="ok"} 3"#,
            r#"sluice_hook_calls_total{call="Shutdown",version="v1alpha3",outcome="ok"} 1"#,
            r#"sluice_hook_call_duration_seconds_bucket{le="0.005",call="OnDefineDomain"} 0"#,
            r#"sluice_hook_call_duration_seconds_bucket{le="0.01",call="OnDefineDomain"} 1"#,
            r#"sluice_hook_call_duration_seconds_bucket{le="60.0",call="OnDefineDomain"} 2"#,
            r#"sluice_hook_call_duration_seconds_bucket{le="+Inf",call="OnDefineDomain"} 3"#,
            r#"sluice_hook_call_duration_seconds_count{call="OnDefineDomain"} 3"#,
            concat!("sluice_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        assert!(!text.contains("sluice_hook_call_duration_seconds_count{call=\"Shutdown\"}"), "{text}");
    }

    #[test]
    fn a_translator_that_does_not_answer_is_down_and_its_numbers_are_left_out() {
        let stats = Stats::parse(br#"{"cable":{"link_ups":3},"flows":7,"drops":{"window":1}}"#).unwrap();
        let up = Metrics::new().text(vec![(entry(running()), Some(stats))]);
        for line in [
            r#"sluice_translator_up{interface="default"} 1"#,
            r#"sluice_translator_restarts_total{interface="default",reason="SIGKILL"} 2"#,
            r#"sluice_cable_link_ups_total{interface="default"} 3"#,
            r#"sluice_flows{interface="default"} 7"#,
            r#"sluice_drops_total{interface="default",reason="window"} 1"#,
        ] {
            assert!(up.lines().any(|found| found == line), "{line} is not in:\n{up}");
        }
        for phase in [running(), Phase::Waiting] {
            let down = Metrics::new().text(vec![(entry(phase), None)]);
            assert!(down.contains("sluice_translator_up{interface=\"default\"} 0"), "{down}");
            assert!(!down.contains("sluice_flows{"), "{down}");
        }
    }
}
