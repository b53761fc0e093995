//! Defines the body of `GET /api/admin/settings`.

use serde::Serialize;

/// A setting in effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownSetting {
    pub name: &'static str,
    /// `set` for a secret that is set. `None`: no value.
    pub value: Option<String>,
    /// `default`, `environment`, `file` or `argument`.
    pub source: &'static str,
    pub secret: bool,
}

#[derive(Debug, Serialize)]
pub struct SettingsBody<'a> {
    pub settings: &'a [ShownSetting],
    /// Whether the playground may get tokens of users.
    pub playground: bool,
}
