//! Outward: what a provider is, how it is spoken to, and one session a user with it.

pub mod backoff;
pub mod clock;
pub mod gate;
pub mod hosts;
pub mod machine;
pub mod pace;
pub mod provider;
pub mod rule;
pub mod secret;
pub mod template;

pub use provider::{Provider, Providers};
pub use secret::Secret;
