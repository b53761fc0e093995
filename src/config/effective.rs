//! Lists each setting with its value and where the value came from, without secrets.

use super::{Setting, TABLE, Values};

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingSource {
    Default,
    Environment,
    /// A file that the variable `NAME_FILE` names.
    File,
    /// A flag of the command line.
    Argument,
}

impl SettingSource {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Environment => "environment",
            Self::File => "file",
            Self::Argument => "argument",
        }
    }
}

/// A setting in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveSetting {
    pub name: &'static str,
    /// `set` for a secret that is set; an address is shown without its user, password and query. `None`: no value.
    pub value: Option<String>,
    pub source: SettingSource,
    pub is_secret: bool,
}

/// Lists all settings. `flags` are those of `values` that came from the command line.
pub(super) fn effective(values: &Values, flags: &Values) -> Vec<EffectiveSetting> {
    TABLE.iter().map(|setting| of(setting, values, flags)).collect()
}

fn of(setting: &'static Setting, values: &Values, flags: &Values) -> EffectiveSetting {
    let given = values.get(setting.name).map(|value| value.trim()).filter(|value| !value.is_empty());
    let has_file = setting.secret && values.contains_key(&format!("{}_FILE", setting.name));
    let source = match given {
        Some(_) if flags.contains_key(setting.name) => SettingSource::Argument,
        Some(_) => SettingSource::Environment,
        None if has_file => SettingSource::File,
        None => SettingSource::Default,
    };
    let value = match given {
        _ if setting.secret => (source != SettingSource::Default).then(|| "set".to_owned()),
        Some(value) => Some(without_credentials(value)),
        None => Some(setting.default.to_owned()).filter(|value| !value.is_empty()),
    };
    EffectiveSetting { name: setting.name, value, source, is_secret: setting.secret }
}

/// An address without its user, password, query and fragment; any other text as it is.
pub(super) fn without_credentials(value: &str) -> String {
    match url::Url::parse(value) {
        Ok(mut url) if url.has_host() => {
            let _ = (url.set_username(""), url.set_password(None));
            url.set_query(None);
            url.set_fragment(None);
            url.to_string()
        }
        _ => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_tells_its_value_and_source_and_no_secret() {
        let values = |pairs: &[(&str, &str)]| -> Values { pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect() };
        let given = values(&[
            ("DATABASE_URL", "postgres://hub:hush@db/recado"),
            ("RECADO_JWT_SECRET_FILE", "/run/hush"),
            ("RECADO_JWKS_URL", "https://me:hush@idp.example/keys?key=hush"),
            ("PORT", "9000"),
            ("RECADO_LOG", " "),
        ]);
        let all = effective(&given, &values(&[("PORT", "9000")]));
        assert_eq!(all.len(), TABLE.len());
        let of = |name: &str| {
            let setting = all.iter().find(|setting| setting.name == name).unwrap();
            (setting.value.as_deref(), setting.source.as_str(), setting.is_secret)
        };
        assert_eq!(of("DATABASE_URL"), (Some("set"), "environment", true));
        assert_eq!(of("RECADO_JWT_SECRET"), (Some("set"), "file", true));
        assert_eq!(of("RECADO_KEY"), (None, "default", true));
        assert_eq!(of("RECADO_JWKS_URL"), (Some("https://idp.example/keys"), "environment", false));
        assert_eq!(of("PORT"), (Some("9000"), "argument", false));
        assert_eq!(of("RECADO_LOG"), (Some("info"), "default", false));
        assert_eq!(of("RECADO_PUBLIC_URL"), (None, "default", false));
        assert!(!format!("{all:?}").contains("hush"));
    }
}
