//! The program: picks the crypto library, starts the runtime, runs the command line.

fn main() {
    // Before anything speaks TLS or signs: chosen by us, not by whichever library is asked first.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("recado: another crypto library was chosen before ours");
        std::process::exit(1);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("recado: no runtime: {error}");
            std::process::exit(1);
        }
    };
    let code = runtime.block_on(recado::cli::main());
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    std::process::exit(code);
}
