//! The recorder behind the `metrics` facade: a registry whose series can be deleted, and its Prometheus text.
//!
//! Source of the text format: Prometheus exposition format 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use metrics::{HistogramFn, Key, KeyName, Metadata, SharedString, Unit};
use metrics_util::registry::{Registry, Storage};

/// Upper bounds in seconds: half a millisecond to a minute for attempts and delays, 10 µs up for rules.
const BOUNDS: [f64; 18] = [
    0.000_01, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
    30.0, 60.0,
];

/// Name and help of every metric.
const HELP: [(&str, &str); 19] = [
    ("sidehook_analyses_total", "Analyses by name and outcome."),
    ("sidehook_attempt_duration_seconds", "Time one delivery attempt took."),
    ("sidehook_attempts_total", "Delivery attempts by webhook and status."),
    ("sidehook_breaker_open", "1 while a webhook's circuit breaker is open."),
    ("sidehook_build_info", "Always 1; the version is in the label."),
    ("sidehook_config_generation", "Number of the configuration generation in force."),
    ("sidehook_config_reloads_total", "Configuration reloads by result."),
    ("sidehook_conversations_open", "Conversations with state whose end has not arrived."),
    ("sidehook_deliveries_total", "Deliveries and decisions by webhook and outcome."),
    ("sidehook_event_to_delivery_seconds", "Time from an event's arrival to its delivery."),
    ("sidehook_events_received_total", "Events accepted by source and type."),
    ("sidehook_events_rejected_total", "Requests and items refused by source and reason."),
    ("sidehook_outbox_bytes", "Bytes the outbox uses."),
    ("sidehook_outbox_deliveries", "Deliveries in the outbox by webhook and state."),
    ("sidehook_outbox_oldest_seconds", "Age of a webhook's oldest pending delivery."),
    ("sidehook_outbox_failures_total", "Failures that closed the outbox until it was opened again."),
    ("sidehook_rule_duration_seconds", "Time one evaluation of a rule took."),
    ("sidehook_rule_errors_total", "Rule failures by rule and kind."),
    ("sidehook_tap_dropped_total", "Messages a tap dropped to spare the assistant's traffic."),
];

/// Storage with fixed-bucket histograms, so that a series costs the same however much it records.
pub struct Series;

/// A fixed-bucket histogram.
pub struct Buckets {
    counts: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    sum: AtomicU64,
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        if let Some(i) = BOUNDS.iter().position(|bound| value <= *bound) {
            self.counts[i].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // The closure always answers, so this cannot fail.
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

impl Storage<Key> for Series {
    type Counter = Arc<AtomicU64>;
    type Gauge = Arc<AtomicU64>;
    type Histogram = Arc<Buckets>;

    fn counter(&self, _key: &Key) -> Self::Counter {
        Arc::default()
    }

    fn gauge(&self, _key: &Key) -> Self::Gauge {
        Arc::default()
    }

    fn histogram(&self, _key: &Key) -> Self::Histogram {
        Arc::new(Buckets { counts: Default::default(), count: AtomicU64::new(0), sum: AtomicU64::new(0) })
    }
}

/// The process's metrics.
pub struct Metrics {
    registry: Registry<Key, Series>,
}

static METRICS: OnceLock<Arc<Metrics>> = OnceLock::new();

/// The process's metrics, installed as the facade's recorder on first use.
pub fn metrics() -> &'static Arc<Metrics> {
    METRICS.get_or_init(|| {
        let metrics = Arc::new(Metrics { registry: Registry::new(Series) });
        // Fails only if another recorder was installed before, which nothing in this crate does.
        let _ = metrics::set_global_recorder(Arc::clone(&metrics));
        metrics::gauge!("sidehook_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        metrics
    })
}

impl metrics::Recorder for Metrics {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> metrics::Counter {
        self.registry.get_or_create_counter(key, |c| metrics::Counter::from_arc(Arc::clone(c)))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> metrics::Gauge {
        self.registry.get_or_create_gauge(key, |g| metrics::Gauge::from_arc(Arc::clone(g)))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> metrics::Histogram {
        self.registry.get_or_create_histogram(key, |h| metrics::Histogram::from_arc(Arc::clone(h)))
    }
}

impl Metrics {
    /// Deletes the series whose `label` has a value that `keep` does not want.
    pub fn retain(&self, label: &str, keep: impl Fn(&str) -> bool) {
        let wanted = |key: &Key| key.labels().all(|l| l.key() != label || keep(l.value()));
        self.registry.retain_counters(|key, _| wanted(key));
        self.registry.retain_gauges(|key, _| wanted(key));
        self.registry.retain_histograms(|key, _| wanted(key));
    }

    /// Everything as Prometheus text, sorted by name and labels.
    #[must_use]
    pub fn render(&self) -> String {
        let mut families: BTreeMap<String, (&'static str, BTreeMap<String, String>)> = BTreeMap::new();
        let mut add = |key: &Key, kind, lines: String| {
            let family = families.entry(key.name().to_owned()).or_insert_with(|| (kind, BTreeMap::new()));
            family.1.insert(labels_of(key, None), lines);
        };
        self.registry.visit_counters(|key, value| {
            add(key, "counter", format!("{}{} {}\n", key.name(), labels_of(key, None), value.load(Ordering::Relaxed)));
        });
        self.registry.visit_gauges(|key, value| {
            let value = f64::from_bits(value.load(Ordering::Relaxed));
            add(key, "gauge", format!("{}{} {value}\n", key.name(), labels_of(key, None)));
        });
        self.registry.visit_histograms(|key, buckets| add(key, "histogram", histogram_lines(key, buckets)));
        let mut out = String::new();
        for (name, (kind, series)) in families {
            if let Some((_, help)) = HELP.iter().find(|(known, _)| *known == name) {
                let _ = writeln!(out, "# HELP {name} {help}");
            }
            let _ = writeln!(out, "# TYPE {name} {kind}");
            out.extend(series.into_values());
        }
        out
    }
}

fn histogram_lines(key: &Key, buckets: &Buckets) -> String {
    let name = key.name();
    let mut out = String::new();
    let mut total = 0;
    for (bound, count) in BOUNDS.iter().zip(&buckets.counts) {
        total += count.load(Ordering::Relaxed);
        let _ = writeln!(out, "{name}_bucket{} {total}", labels_of(key, Some(&bound.to_string())));
    }
    // A record may be half done: the infinite bucket is never less than the one before it.
    let count = buckets.count.load(Ordering::Relaxed).max(total);
    let _ = writeln!(out, "{name}_bucket{} {count}", labels_of(key, Some("+Inf")));
    let sum = f64::from_bits(buckets.sum.load(Ordering::Relaxed));
    let _ = writeln!(out, "{name}_sum{} {sum}", labels_of(key, None));
    let _ = writeln!(out, "{name}_count{} {count}", labels_of(key, None));
    out
}

fn labels_of(key: &Key, le: Option<&str>) -> String {
    let mut out = String::new();
    for (name, value) in key.labels().map(|l| (l.key(), l.value())).chain(le.map(|le| ("le", le))) {
        out.push(if out.is_empty() { '{' } else { ',' });
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "{name}=\"{value}\"");
    }
    if !out.is_empty() {
        out.push('}');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics::Recorder as _;

    #[test]
    fn series_render_and_are_forgotten() {
        let metrics = Metrics { registry: Registry::new(Series) };
        metrics::with_local_recorder(&metrics, || {
            metrics::counter!("sidehook_attempts_total", "webhook" => "a", "status" => "200").increment(2);
            metrics::counter!("sidehook_attempts_total", "webhook" => "b\"", "status" => "200").increment(1);
            metrics::gauge!("sidehook_outbox_bytes").set(1.5);
            metrics::histogram!("sidehook_attempt_duration_seconds", "webhook" => "a").record(0.003);
            metrics::histogram!("sidehook_attempt_duration_seconds", "webhook" => "a").record(120.0);
        });
        let text = metrics.render();
        for line in [
            "# HELP sidehook_attempts_total Delivery attempts by webhook and status.",
            "# TYPE sidehook_attempts_total counter",
            "sidehook_attempts_total{webhook=\"a\",status=\"200\"} 2",
            "sidehook_attempts_total{webhook=\"b\\\"\",status=\"200\"} 1",
            "sidehook_outbox_bytes 1.5",
            "sidehook_attempt_duration_seconds_bucket{webhook=\"a\",le=\"0.0025\"} 0",
            "sidehook_attempt_duration_seconds_bucket{webhook=\"a\",le=\"0.005\"} 1",
            "sidehook_attempt_duration_seconds_bucket{webhook=\"a\",le=\"+Inf\"} 2",
            "sidehook_attempt_duration_seconds_sum{webhook=\"a\"} 120.003",
            "sidehook_attempt_duration_seconds_count{webhook=\"a\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing from\n{text}");
        }
        metrics.retain("webhook", |name| name == "a");
        let text = metrics.render();
        assert!(text.contains("webhook=\"a\"") && !text.contains("webhook=\"b"), "{text}");
        metrics.describe_gauge("x".into(), None, "".into());
    }
}
