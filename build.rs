//! Makes cargo notice a new file in `migrations/`: the macro that embeds them only notices changed ones.
fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
