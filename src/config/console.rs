//! Decides whether this hub serves the console and its playground.

use std::net::IpAddr;
use std::path::PathBuf;

use super::reading::{FOLDER, Reading};
use super::{Config, Values};

/// A setting that follows the address of the listener unless it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AutoSwitch {
    Auto,
    On,
    Off,
}

impl AutoSwitch {
    const WORDS: [(&'static str, Self); 3] = [("auto", Self::Auto), ("on", Self::On), ("off", Self::Off)];

    /// `automatic`: whether only this machine comes in, as far as the settings tell.
    const fn switched(self, automatic: bool) -> SwitchedOn {
        match self {
            Self::Auto if automatic => SwitchedOn::ByAuto,
            Self::On => SwitchedOn::Yes,
            Self::Auto | Self::Off => SwitchedOn::No,
        }
    }
}

/// How the settings turn something on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchedOn {
    No,
    /// By `auto`, because only this machine comes in as far as the settings tell. The hub looks at each request for a
    /// proxy that no setting names.
    ByAuto,
    Yes,
}

/// The settings of the console.
#[derive(Debug, Clone)]
pub struct ConsoleSettings {
    admin: AutoSwitch,
    playground: AutoSwitch,
    /// Serves the page's files from this folder. For work on the page: only a debug build reads the variable.
    pub folder: Option<PathBuf>,
}

impl ConsoleSettings {
    pub(super) fn read(read: &mut Reading<'_>) -> Self {
        Self {
            admin: read.choice("RECADO_ADMIN", &AutoSwitch::WORDS),
            playground: read.choice("RECADO_PLAYGROUND", &AutoSwitch::WORDS),
            folder: folder(read.values),
        }
    }
}

fn folder(values: &Values) -> Option<PathBuf> {
    values.get(FOLDER).filter(|_| cfg!(debug_assertions)).map(PathBuf::from)
}

impl Config {
    /// The address of the listener that serves the console.
    fn console_bind(&self) -> IpAddr {
        self.internal_bind.map_or(self.bind, |internal| internal.ip())
    }

    /// Whether only this machine reaches the listener of the console, as far as the settings tell. A hub on loopback
    /// with a public address, further names or trusted proxies has a proxy in front of it, through which others come.
    fn is_for_this_machine(&self) -> bool {
        let is_named = self.public_origin.is_some() || !self.allowed_hosts.is_empty() || !self.trusted_proxies.is_empty();
        let has_proxy = self.internal_bind.is_none() && is_named;
        self.console_bind().is_loopback() && !has_proxy
    }

    /// Whether this hub serves the console.
    pub fn serves_console(&self) -> SwitchedOn {
        self.console.admin.switched(self.is_for_this_machine())
    }

    /// Whether the console's playground may get tokens of users. A page can reach only its own origin, and the internal
    /// listener serves no stream: with `RECADO_INTERNAL_BIND` the playground could not work.
    pub fn serves_playground(&self) -> SwitchedOn {
        if self.serves_console() == SwitchedOn::No || self.internal_bind.is_some() {
            return SwitchedOn::No;
        }
        self.console.playground.switched(self.is_for_this_machine())
    }

    /// Whether a browser that opens `/` is sent to the console: both must be on the same listener.
    pub fn leads_to_console(&self) -> bool {
        self.serves_console() != SwitchedOn::No && self.internal_bind.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::super::MachineEnvironment;
    use super::*;

    fn load(pairs: &[(&str, &str)]) -> Config {
        let values = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::from_values(&values, MachineEnvironment::default()).unwrap()
    }

    #[test]
    fn the_console_follows_the_listener_that_would_serve_it() {
        let (off, auto, on) = (SwitchedOn::No, SwitchedOn::ByAuto, SwitchedOn::Yes);
        let served = |pairs: &[(&str, &str)]| {
            let config = load(pairs);
            (config.serves_console(), config.serves_playground(), config.leads_to_console())
        };
        assert_eq!(served(&[]), (auto, auto, true));
        assert_eq!(served(&[("RECADO_BIND", "0.0.0.0")]), (off, off, false));
        assert_eq!(served(&[("RECADO_BIND", "0.0.0.0"), ("RECADO_ADMIN", "on")]), (on, off, true));
        assert_eq!(served(&[("RECADO_BIND", "::"), ("RECADO_ADMIN", "on"), ("RECADO_PLAYGROUND", "on")]), (on, on, true));
        assert_eq!(served(&[("RECADO_ADMIN", "off"), ("RECADO_PLAYGROUND", "on")]), (off, off, false));
        assert_eq!(served(&[("RECADO_PLAYGROUND", "off")]), (auto, off, true));
        // A proxy on the same machine lets others in.
        assert_eq!(served(&[("RECADO_PUBLIC_URL", "https://hub.example.com")]), (off, off, false));
        assert_eq!(served(&[("RECADO_TRUSTED_PROXIES", "127.0.0.1")]), (off, off, false));
        assert_eq!(served(&[("RECADO_ALLOWED_HOSTS", "hub.example.com")]), (off, off, false));
        assert_eq!(served(&[("RECADO_TRUSTED_PROXIES", "127.0.0.1"), ("RECADO_INTERNAL_BIND", "127.0.0.1:0")]), (auto, off, false));
        assert_eq!(served(&[("RECADO_TRUSTED_PROXIES", "127.0.0.1"), ("RECADO_ADMIN", "on")]), (on, off, true));
        assert_eq!(served(&[("RECADO_INTERNAL_BIND", "127.0.0.1:0"), ("RECADO_BIND", "0.0.0.0")]), (auto, off, false));
        assert_eq!(served(&[("RECADO_INTERNAL_BIND", "10.0.0.5:0"), ("RECADO_PLAYGROUND", "on")]), (off, off, false));
    }

    #[test]
    fn a_folder_of_the_page_is_for_debug_builds() {
        assert_eq!(load(&[(FOLDER, "/page")]).console.folder, Some(PathBuf::from("/page")));
        assert_eq!(load(&[]).console.folder, None);
    }
}
