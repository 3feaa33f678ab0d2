//! Says what is going on when it takes over a second. Silent before, and gone afterwards on a terminal.

use std::future::Future;
use std::io::IsTerminal as _;
use std::pin::pin;
use std::time::Duration;

use crate::output::Output;

/// What is done within this time needs no word.
const PATIENCE: Duration = Duration::from_secs(1);

/// Waits for the work; after a second says `text` on stderr.
pub(crate) async fn during<F: Future>(out: &Output, text: &str, work: F) -> F::Output {
    let mut work = pin!(work);
    if let Ok(done) = tokio::time::timeout(PATIENCE, &mut work).await {
        return done;
    }
    if out.is_json() {
        return work.await;
    }
    if !std::io::stderr().is_terminal() {
        out.note(text);
        return work.await;
    }
    let spinner = indicatif::ProgressBar::new_spinner().with_message(text.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(120));
    let done = work.await;
    spinner.finish_and_clear();
    done
}
