//! A permit is not built field by field, whatever the fields hold.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use claviger_core::audit::{Settlement, Use};
use claviger_core::{AuditSink, Clock, Permit};

fn forge(allowed: Use, sink: Arc<dyn AuditSink>, clock: Arc<dyn Clock>) -> Permit {
    Permit {
        index: 0,
        allowed,
        message: None,
        sink,
        clock,
        settlement: Settlement::Released,
        spent: AtomicBool::new(false),
    }
}

fn main() {}
