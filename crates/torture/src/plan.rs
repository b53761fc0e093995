//! Defines the parameters of a run.

use std::path::PathBuf;

use private_postgres::Environment;

use crate::faults::NemesisFault;
use crate::sdk::{SdkMutant, SdkProgram};

/// Parameters of a run.
pub struct RunPlan {
    pub seed: u64,
    pub seconds: u64,
    pub hubs: usize,
    pub faults: Vec<NemesisFault>,
    pub mutant: Option<String>,
    /// Node and the built client; `None` for a run without devices of the SDK.
    pub sdk: Option<SdkProgram>,
    pub sdk_mutant: Option<SdkMutant>,
    pub program: PathBuf,
    pub folder: PathBuf,
    pub environment: Environment,
}
