//! Captures what libraries log at any level. Not our log: egress has none.

use std::sync::{Mutex, Once};

struct Capture;

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

impl log::Log for Capture {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}\n", record.target(), record.args());
        LINES.lock().unwrap().extend(line.bytes());
    }
    fn flush(&self) {}
}

pub(crate) fn capture() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Capture).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
}

/// All lines so far, of every test of this process.
pub(crate) fn lines() -> Vec<u8> {
    LINES.lock().unwrap().clone()
}
