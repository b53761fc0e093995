//! Writes metrics in the Prometheus text format 0.0.4.

use std::fmt::Write as _;

use super::meter::Histogram;

/// The media type of the text.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page that is being written. Each metric appears once, with its help text and its type.
#[derive(Debug, Default)]
pub struct PrometheusText(String);

impl PrometheusText {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.sample(name, "", value as f64);
    }

    pub fn counters(&mut self, name: &str, help: &str, label: &str, values: &[(&'static str, f64)]) {
        self.head(name, "counter", help);
        self.labelled(name, label, values);
    }

    /// Counters with two labels.
    pub fn pairs(&mut self, name: &str, help: &str, labels: [&str; 2], values: &[([&'static str; 2], f64)]) {
        self.head(name, "counter", help);
        for ([first, second], number) in values {
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
        let (upto, total) = histogram.cumulated();
        for (bound, count) in histogram.bounds.iter().zip(upto) {
            self.sample(&format!("{name}_bucket"), &format!("{{le=\"{bound}\"}}"), count as f64);
        }
        self.sample(&format!("{name}_bucket"), "{le=\"+Inf\"}", total as f64);
        self.sample(&format!("{name}_sum"), "", histogram.sum());
        self.sample(&format!("{name}_count"), "", total as f64);
    }

    pub fn finish(self) -> String {
        self.0
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_as_the_format_has_it() {
        let mut page = PrometheusText::default();
        page.counters("a_total", "What it is", "of", &[("x\"y", 2.0)]);
        let histogram = Histogram::new(&[0.5, 1.0]);
        histogram.observe(0.7);
        page.histogram("b", "Times", &histogram);
        let text = "# HELP a_total What it is\n# TYPE a_total counter\na_total{of=\"x\\\"y\"} 2\n# HELP b Times\n# TYPE b histogram\n\
                    b_bucket{le=\"0.5\"} 0\nb_bucket{le=\"1\"} 1\nb_bucket{le=\"+Inf\"} 1\nb_sum 0.7\nb_count 1\n";
        assert_eq!(page.finish(), text);
    }
}
