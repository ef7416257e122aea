//! stub
/// A.
#[derive(clap::Args)]
pub struct Args {}
/// R.
pub fn run(_: Args) -> anyhow::Result<u8> {
    todo!()
}
