//! Runs `recado top`: shows rates, hubs and sessions live in a terminal.

mod feed;
mod model;
mod screen;
mod view;

use std::pin::pin;
use std::time::Duration;

use chrono::Utc;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::feed::{Moment, News};
use self::model::{Column, Sessions};
use self::screen::Screen;
use self::view::{Ask, View};
use super::error::CliFailure;
use super::output::{self, Format};
use crate::config::Config;

/// News that wait to be shown.
const NEWS: usize = 4;
/// How often ages are drawn anew while nothing arrives.
const TICK: Duration = Duration::from_secs(1);

/// Show rates, hubs and sessions, live.
#[derive(Debug, Args)]
pub struct TopCommand {
    /// The column to sort by: user, device, accounts, transport, hub, connected, active, sent, acked, lag or provider
    #[arg(long, default_value = "lag")]
    sort: String,
}

impl TopCommand {
    pub async fn run(&self, config: &Config, format: Format) -> Result<(), CliFailure> {
        let names = || Column::ALL.map(Column::name).join(", ");
        let sort = Column::parse(&self.sort).ok_or_else(|| CliFailure::other(format!("--sort must be one of {}", names())))?;
        // Also before the screen is taken over: a hub that refuses is an error like any other.
        let moment = feed::once(config).await?;
        if format != Format::Table {
            return output::one(format, &moment);
        }
        let mut view = View::new(&config.internal_url, sort);
        let Moment { instances, sessions } = moment;
        view.take_sample(serde_json::from_value(instances).unwrap_or_default());
        view.take_sessions(Sessions::read(sessions));
        if !output::is_interactive() {
            return output::line(&view.whole(Utc::now()));
        }
        live(config, view).await
    }
}

/// Draws until a key or a signal ends it. The screen is restored when it is dropped.
async fn live(config: &Config, mut view: View) -> Result<(), CliFailure> {
    let receive = |kind| signal(kind).map_err(|error| CliFailure::other(format!("could not install signal handlers: {error}")));
    let mut resized = receive(SignalKind::window_change())?;
    let (mut terminated, mut interrupted, mut hung_up) =
        (receive(SignalKind::terminate())?, receive(SignalKind::interrupt())?, receive(SignalKind::hangup())?);
    let (news_in, mut news) = mpsc::channel(NEWS);
    let mut feeding = pin!(feed::run(config, news_in));
    let screen = Screen::open()?;
    loop {
        screen.draw(&view.lines(screen.size().height, Utc::now()))?;
        tokio::select! {
            () = &mut feeding => {}
            Some(one) = news.recv() => match one {
                News::Sample(sample) => view.take_sample(sample),
                News::Sessions(sessions) => view.take_sessions(sessions),
                News::Trouble(trouble) => view.take_trouble(trouble),
            },
            ask = screen.ask() => match ask {
                Ask::Quit => return Ok(()),
                ask => view.follow(ask),
            },
            _ = resized.recv() => {}
            () = tokio::time::sleep(TICK) => {}
            _ = terminated.recv() => return Ok(()),
            _ = interrupted.recv() => return Ok(()),
            _ = hung_up.recv() => return Ok(()),
        }
    }
}
