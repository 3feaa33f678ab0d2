//! The process that tests kill, starve and look into; see `kit::driver`.

use anyhow::bail;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match words.split_first() {
        Some((mode, rest)) if mode == "sign" => runtime.block_on(kit::driver::Signing::parse(rest)?.run()),
        Some((mode, rest)) if mode == "hold" => runtime.block_on(kit::holder::hold(rest)),
        Some((mode, rest)) if mode == "live" => runtime.block_on(kit::lives::live(rest)),
        _ => bail!("expected `sign …`, `hold …` or `live …`"),
    }
}
