//! Holds the hubs, the database, the provider and the shared state of a run.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use recado_torture_check::fact::RunFact;
use tokio::time::sleep;

use crate::book::Recorder;
use crate::devices::Floor;
use crate::hubs::{Roll, Site, TortureHub};
use crate::issuer::Issuer;
use crate::plan::RunPlan;
use crate::postgres::Postgres;
use crate::provider::TortureProvider;
use crate::sdk::SdkDevices;
use crate::writers::{NONE, WriterShared};
use crate::{RunError, secrets, witness};

/// Least share of the machine for a meaningful run.
const LEAST_SHARE: f64 = 0.25;

/// The hubs, the database, the provider and the shared state of a run.
pub struct RunWorld {
    pub book: Arc<Recorder>,
    pub postgres: Postgres,
    pub hubs: Vec<TortureHub>,
    pub program: PathBuf,
    pub desk: Arc<WriterShared>,
    pub provider: TortureProvider,
    pub issuer: Issuer,
    /// The devices of the TypeScript SDK, if the run has them.
    pub sdk: Option<SdkDevices>,
    pub site: Arc<Site>,
    pub floor: Arc<Floor>,
    /// For each device: its name, the last number that it received, and whether it reads slowly.
    pub reached: Vec<(String, Arc<AtomicI64>, bool)>,
    /// For each device: the number of commands without a known result.
    pub untold: Vec<Arc<AtomicUsize>>,
    /// Name and text of each secret that must not be found anywhere.
    pub canaries: Vec<(String, String)>,
}

impl RunWorld {
    pub async fn set(plan: &RunPlan) -> Result<Self, RunError> {
        let postgres = Postgres::start(&plan.folder, plan.environment.clone(), plan.mutant.as_deref() != Some("async-standby")).await?;
        let user = witness::user_of(&postgres.url)?;
        let path = plan.environment.path.as_ref().and_then(|path| path.to_str()).unwrap_or_default().to_owned();
        let book = Arc::new(Recorder::new());
        let provider = TortureProvider::start(Arc::clone(&book), plan.seed).await?;
        let (mutant, address, roll) = (plan.mutant.clone(), provider.address, Roll::default());
        let issuer = Issuer::begin(&postgres.folder)?;
        let site = Arc::new(Site { user, path, mutant, provider: address, identity_file: issuer.file.clone(), roll });
        let mut hubs = Vec::new();
        for number in 0..plan.hubs {
            hubs.push(TortureHub::place(number, &postgres, Arc::clone(&site)).await?);
        }
        hubs[0].start(&plan.program).await?;
        witness::prepare(&postgres.url, plan.mutant.as_deref()).await?;
        for hub in &hubs[1..] {
            hub.start(&plan.program).await?;
        }
        let addresses: Vec<String> = hubs.iter().map(TortureHub::url).collect();
        let (closed, hushed) = (AtomicBool::new(false), AtomicBool::new(false));
        let http = reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).build()?;
        let avoided = AtomicUsize::new(NONE);
        let desk = Arc::new(WriterShared {
            book: Arc::clone(&book),
            http: http.clone(),
            addresses: addresses.clone(),
            closed,
            hushed,
            avoided,
            kept: Mutex::default(),
        });
        let floor = Arc::new(Floor {
            book: Arc::clone(&book),
            http: http.clone(),
            addresses,
            staying: AtomicBool::new(false),
            tickets: Mutex::default(),
        });
        let canaries = [
            ("the secret of the tokens", secrets::JWT),
            ("the password of the database", secrets::DATABASE_PASSWORD),
            ("the credential for the provider", secrets::PROVIDER_CREDENTIAL),
            ("the key of the provider's sessions", secrets::UPSTREAM_KEY),
        ];
        let canaries = canaries.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
        let (program, reached, untold) = (plan.program.clone(), Vec::new(), Vec::new());
        Ok(Self { book, postgres, hubs, program, desk, provider, issuer, sdk: None, site, floor, reached, untold, canaries })
    }

    /// Returns the devices that have not reached the present head within the limit: of the quick ones, or of all.
    pub async fn at_head(&self, limit: Duration, all: bool) -> Result<Vec<&str>, RunError> {
        let (head, end) = (witness::head(&self.postgres.url).await?, Instant::now() + limit);
        loop {
            let late = self.reached.iter().filter(|(_, seq, is_slow)| (all || !is_slow) && seq.load(Ordering::SeqCst) < head);
            let late: Vec<&str> = late.map(|(name, ..)| name.as_str()).collect();
            if late.is_empty() || Instant::now() > end {
                return Ok(late);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The limit, extended by the share of the machine that other programs have used so far.
    pub fn patience(&self, limit: Duration) -> Duration {
        limit.div_f64(share(&self.book))
    }

    pub async fn note_base(&self) {
        for hub in &self.hubs {
            let files = hub.files_and_memory().await.map(|(files, _)| files);
            *hub.base_files.lock().unwrap_or_else(PoisonError::into_inner) = files;
        }
    }
}

/// The share of the machine that this run could use so far.
pub fn share(book: &Recorder) -> f64 {
    let others = Duration::from_millis(book.sum(|fact| if let RunFact::Others { ms } = fact { *ms } else { 0 }));
    (1.0 - others.as_secs_f64() / book.seconds()).max(LEAST_SHARE)
}
