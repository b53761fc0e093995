//! Writes metrics in the text format of Prometheus (0.0.4) or as OpenMetrics 1.0.

use std::fmt::Write as _;

use super::histogram::{Exemplar, Histogram};

/// The format of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsFormat {
    Prometheus,
    /// Has exemplars, and is sent only to those that ask for it.
    OpenMetrics,
}

impl MetricsFormat {
    /// The format that a request prefers by its `Accept` header (RFC 9110 section 12.5.1).
    pub fn accepted(accept: &str) -> Self {
        let weight = |wanted: &str| {
            let weights = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let is_it = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
                let q = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse::<f32>().ok());
                q.filter(|_| is_it)
            });
            weights.fold(0.0, f32::max)
        };
        let openmetrics = weight("application/openmetrics-text");
        if openmetrics > 0.0 && openmetrics >= weight("text/plain") { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A page that is being written. Each metric appears once, with its help text and its type.
#[derive(Debug)]
pub struct MetricsText {
    text: String,
    format: MetricsFormat,
}

impl MetricsText {
    pub fn new(format: MetricsFormat) -> Self {
        Self { text: String::new(), format }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // OpenMetrics names the family of a counter without the ending that its samples have.
        let name = match self.format {
            MetricsFormat::OpenMetrics if kind == "counter" => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(self.text, "{name}{labels} {value}");
    }

    pub fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, "counter", help);
        self.sample(name, "", value);
    }

    pub fn counters(&mut self, name: &str, help: &str, label: &str, values: &[(&'static str, f64)]) {
        self.head(name, "counter", help);
        self.labelled(name, label, values);
    }

    /// Counters with two labels.
    pub fn pairs<V: AsRef<str>>(&mut self, name: &str, help: &str, labels: [&str; 2], values: &[([V; 2], f64)]) {
        self.head(name, "counter", help);
        for ([first, second], number) in values {
            let (first, second) = (escaped(first.as_ref()), escaped(second.as_ref()));
            self.sample(name, &format!("{{{}=\"{first}\",{}=\"{second}\"}}", labels[0], labels[1]), *number);
        }
    }

    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, "gauge", help);
        self.sample(name, "", value);
    }

    /// An unknown value has no sample: zero would be a claim.
    pub fn gauge_if_known(&mut self, name: &str, help: &str, value: Option<f64>) {
        self.head(name, "gauge", help);
        if let Some(value) = value {
            self.sample(name, "", value);
        }
    }

    pub fn gauges(&mut self, name: &str, help: &str, label: &str, values: &[(&'static str, f64)]) {
        self.head(name, "gauge", help);
        self.labelled(name, label, values);
    }

    fn labelled(&mut self, name: &str, label: &str, values: &[(&'static str, f64)]) {
        for (value, number) in values {
            self.sample(name, &format!("{{{label}=\"{}\"}}", escaped(value)), *number);
        }
    }

    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        self.buckets(name, None, histogram);
    }

    /// Histograms with one label.
    pub fn histograms<'a>(&mut self, name: &str, help: &str, label: &str, all: impl Iterator<Item = (&'static str, &'a Histogram)>) {
        self.head(name, "histogram", help);
        for (value, histogram) in all {
            self.buckets(name, Some((label, value)), histogram);
        }
    }

    fn buckets(&mut self, name: &str, label: Option<(&str, &str)>, histogram: &Histogram) {
        let label = label.map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
        let before_le = label.as_ref().map(|label| format!("{label},")).unwrap_or_default();
        let alone = label.map(|label| format!("{{{label}}}")).unwrap_or_default();
        let (upto, total) = histogram.cumulated();
        for (at, (bound, count)) in histogram.bounds.iter().zip(upto).enumerate() {
            self.bucket(name, &before_le, &self.bound(*bound), count, histogram.exemplar(at));
        }
        self.bucket(name, &before_le, "+Inf", total, histogram.exemplar(histogram.bounds.len()));
        self.sample(&format!("{name}_sum"), &alone, histogram.sum());
        self.sample(&format!("{name}_count"), &alone, total as f64);
    }

    fn bucket(&mut self, name: &str, before_le: &str, bound: &str, count: u64, exemplar: Option<Exemplar>) {
        let _ = write!(self.text, "{name}_bucket{{{before_le}le=\"{bound}\"}} {count}");
        if let Some(Exemplar { trace_id, value, at }) = exemplar.filter(|_| self.format == MetricsFormat::OpenMetrics) {
            let _ = write!(self.text, " # {{trace_id=\"{trace_id:032x}\"}} {value} {at:.3}");
        }
        self.text.push('\n');
    }

    /// OpenMetrics writes a whole number with a decimal point there.
    fn bound(&self, bound: f64) -> String {
        match self.format {
            MetricsFormat::Prometheus => format!("{bound}"),
            MetricsFormat::OpenMetrics => format!("{bound:?}"),
        }
    }

    pub fn finish(mut self) -> String {
        if self.format == MetricsFormat::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn page(format: MetricsFormat) -> String {
        let mut page = MetricsText::new(format);
        page.counters("a_total", "What it is", "of", &[("x\"y", 2.0)]);
        let histogram = Histogram::new(&[0.5, 1.0]);
        histogram.time_in(Duration::from_millis(700), Some(0xabc));
        page.histogram("b", "Times", &histogram);
        page.histograms("c", "Waits", "pool", [("p", &Histogram::new(&[1.0]))].into_iter());
        page.finish()
    }

    #[test]
    fn a_page_is_as_the_format_has_it() {
        let text = "# HELP a_total What it is\n# TYPE a_total counter\na_total{of=\"x\\\"y\"} 2\n# HELP b Times\n# TYPE b histogram\n\
                    b_bucket{le=\"0.5\"} 0\nb_bucket{le=\"1\"} 1\nb_bucket{le=\"+Inf\"} 1\nb_sum 0.7\nb_count 1\n\
                    # HELP c Waits\n# TYPE c histogram\nc_bucket{pool=\"p\",le=\"1\"} 0\nc_bucket{pool=\"p\",le=\"+Inf\"} 0\n\
                    c_sum{pool=\"p\"} 0\nc_count{pool=\"p\"} 0\n";
        assert_eq!(page(MetricsFormat::Prometheus), text);
    }

    #[test]
    fn openmetrics_has_exemplars_and_an_end() {
        let text = page(MetricsFormat::OpenMetrics);
        assert!(text.contains("# TYPE a counter\na_total{of="), "{text}");
        assert!(text.contains("b_bucket{le=\"1.0\"} 1 # {trace_id=\"00000000000000000000000000000abc\"} 0.7 1"), "{text}");
        assert!(text.ends_with("c_count{pool=\"p\"} 0\n# EOF\n"), "{text}");
    }

    #[test]
    fn openmetrics_is_sent_to_those_that_prefer_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(MetricsFormat::accepted(prometheus), MetricsFormat::OpenMetrics);
        assert_eq!(MetricsFormat::accepted("application/openmetrics-text"), MetricsFormat::OpenMetrics);
        for accept in ["", "*/*", "text/plain", "text/plain, application/openmetrics-text;q=0.9", "application/openmetrics-text;q=0"] {
            assert_eq!(MetricsFormat::accepted(accept), MetricsFormat::Prometheus, "{accept}");
        }
    }
}
