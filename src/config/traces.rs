//! Reads the variables of OpenTelemetry that the hub itself looks at.

use super::Values;
use super::effective::without_credentials;

/// Spans that wait to be sent, unless `OTEL_BSP_MAX_QUEUE_SIZE` says otherwise. The default of OpenTelemetry.
const QUEUE: usize = 2048;

/// The samplers of the SDK. It takes another one for the default, without a word.
const SAMPLERS: [&str; 6] =
    ["always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"];

/// Whether and where traces are sent.
#[derive(Debug, Clone)]
pub struct TraceSettings {
    /// The variable that names the collector, and its value. `None`: traces are off.
    collector: Option<(&'static str, String)>,
    sampler: Option<String>,
    sampler_arg: Option<String>,
    /// Whether a variable names the service.
    pub names_service: bool,
    /// Most spans that wait to be sent.
    pub queue: usize,
    /// A protocol that was asked for and that the hub does not have.
    pub other_protocol: Option<String>,
}

impl TraceSettings {
    pub(super) fn of(values: &Values) -> Self {
        let given = |name: &str| values.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        let is_disabled = given("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let collector = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
        let collector = collector.into_iter().find_map(|name| Some((name, given(name)?.to_owned())));
        let protocol = given("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| given("OTEL_EXPORTER_OTLP_PROTOCOL"));
        let attributes = given("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        Self {
            collector: collector.filter(|_| !is_disabled),
            sampler: given("OTEL_TRACES_SAMPLER").map(str::to_owned),
            sampler_arg: given("OTEL_TRACES_SAMPLER_ARG").map(str::to_owned),
            names_service: given("OTEL_SERVICE_NAME").is_some()
                || attributes.split(',').filter_map(|pair| pair.split_once('=')).any(|(name, _)| name.trim() == "service.name"),
            queue: given("OTEL_BSP_MAX_QUEUE_SIZE").and_then(|text| text.parse().ok()).filter(|size| *size > 0).unwrap_or(QUEUE),
            other_protocol: protocol.filter(|protocol| *protocol != "http/protobuf").map(str::to_owned),
        }
    }

    /// The collector's address without user, password and query; `None` if traces are off.
    ///
    /// # Errors
    /// If it is no address, or the sampler is unknown. An address is not repeated, because it may hold a password.
    pub fn endpoint(&self) -> Result<Option<String>, String> {
        let Some((name, value)) = &self.collector else { return Ok(None) };
        if let Some(sampler) = self.sampler.as_deref().filter(|sampler| !SAMPLERS.contains(sampler)) {
            return Err(format!("OTEL_TRACES_SAMPLER is {sampler:?}; it must be one of {}", SAMPLERS.join(", ")));
        }
        let is_part = |text: &str| text.parse::<f64>().is_ok_and(|part| (0.0..=1.0).contains(&part));
        let has_part = self.sampler.as_deref().is_some_and(|sampler| sampler.ends_with("traceidratio"));
        if let Some(part) = self.sampler_arg.as_deref().filter(|part| has_part && !is_part(part)) {
            return Err(format!("OTEL_TRACES_SAMPLER_ARG is {part:?}; it must be a number from 0 to 1"));
        }
        let is_address = url::Url::parse(value).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if is_address {
            Ok(Some(without_credentials(value)))
        } else {
            Err(format!(
                "{name} must be an address with http:// or https://, such as http://collector:4318; leave it out to send no traces"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> TraceSettings {
        TraceSettings::of(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn traces_are_on_where_a_collector_is_named_and_the_sdk_is_not_disabled() {
        let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:hush@collector:4318?key=hush");
        assert_eq!(of(&[]).endpoint(), Ok(None));
        assert_eq!(of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]).endpoint(), Ok(None));
        assert_eq!(of(&[general]).endpoint(), Ok(Some("http://collector:4318/".to_owned())));
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces/v1/traces");
        assert_eq!(of(&[general, traces]).endpoint(), Ok(Some("https://traces/v1/traces".to_owned())));
        assert_eq!(of(&[general, ("OTEL_SDK_DISABLED", "true")]).endpoint(), Ok(None));
        for wrong in ["collector:4318", "hush", "grpc://hush", "http://"] {
            let error = of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", wrong)]).endpoint().unwrap_err();
            assert!(error.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT must") && !error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn a_sampler_that_the_sdk_would_replace_is_refused() {
        let with = |sampler: &str, part: &str| {
            let traces =
                [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector"), ("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", part)];
            of(&traces).endpoint().map(|_| ())
        };
        assert_eq!((with("parentbased_traceidratio", "0.1"), with("always_on", "any"), with("traceidratio", "")), (Ok(()), Ok(()), Ok(())));
        assert!(with("jaeger_remote", "").unwrap_err().starts_with("OTEL_TRACES_SAMPLER is"));
        assert!(with("traceidratio", "10%").unwrap_err().starts_with("OTEL_TRACES_SAMPLER_ARG is"));
        assert_eq!(of(&[("OTEL_TRACES_SAMPLER", "jaeger_remote")]).endpoint(), Ok(None));
    }

    #[test]
    fn the_service_is_named_by_either_variable() {
        assert!(!of(&[("OTEL_RESOURCE_ATTRIBUTES", "team=a,my.service.name=b")]).names_service);
        assert!(of(&[("OTEL_RESOURCE_ATTRIBUTES", "team=a, service.name=b")]).names_service);
        assert!(of(&[("OTEL_SERVICE_NAME", "hub")]).names_service);
    }

    #[test]
    fn what_the_hub_does_not_have_is_noticed() {
        assert_eq!(of(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).other_protocol.as_deref(), Some("grpc"));
        let both = [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")];
        assert_eq!(of(&both).other_protocol, None);
        assert_eq!(of(&[("OTEL_BSP_MAX_QUEUE_SIZE", "16")]).queue, 16);
        assert_eq!(of(&[("OTEL_BSP_MAX_QUEUE_SIZE", "0")]).queue, QUEUE);
    }
}
