//! `[limits]`: what one run may consume. Does not enforce it.

use std::time::Duration;

use super::section::Section;
use crate::manifest::fields::{self, Field};
use crate::manifest::problem::{Report, code};
use crate::manifest::quantity::{format_duration, parse_duration};
use crate::manifest::{Bytes, Limits};

/// One page of WebAssembly memory: with less, no component starts.
const MIN_MEMORY: Bytes = Bytes(64 << 10);
/// What one memory slot of a host's pool holds.
const MAX_MEMORY: Bytes = Bytes(1 << 30);
/// A run longer than a day is a service, and its grants should be decided anew.
const MAX_DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);
/// The clock of limits ticks in milliseconds.
const MIN_TIME: Duration = Duration::from_millis(1);
/// Output is held in host memory.
const MAX_OUTPUT: Bytes = Bytes(16 << 20);

/// The limits; the default for each that is not given or not acceptable.
pub(super) fn read(top: &Section<'_, '_>, report: &mut Report) -> Limits {
    let mut limits = Limits::default();
    let place = "[limits]".to_owned();
    let Some(section) = top.section(fields::LIMITS_TABLE, place, fields::LIMITS, report) else {
        return limits;
    };
    if let Some(memory) = bytes(&section, fields::MEMORY, MIN_MEMORY, MAX_MEMORY, report) {
        limits.memory = memory;
    }
    if let Some(output) = bytes(&section, fields::OUTPUT, Bytes(1), MAX_OUTPUT, report) {
        limits.output = output;
    }
    let deadline = duration(&section, fields::DEADLINE, report);
    let cpu = duration(&section, fields::CPU, report);
    limits.deadline = deadline.unwrap_or(limits.deadline);
    match cpu {
        None => limits.cpu = limits.cpu.min(limits.deadline),
        Some(cpu) if cpu > limits.deadline => {
            let deadline = format_duration(limits.deadline);
            report.error(
                code::CONFLICT,
                section
                    .get(fields::CPU)
                    .map_or_else(|| section.span.clone(), |value| value.span()),
                format!(
                    "`cpu` is {} and the deadline is {deadline}{}; expected no more processor time than time",
                    format_duration(cpu),
                    if section.get(fields::DEADLINE).is_none() {
                        " by default"
                    } else {
                        ""
                    },
                ),
                "more than the deadline",
                Some(format!("lower `cpu` to {deadline} or raise `deadline`")),
            );
        }
        Some(cpu) => limits.cpu = cpu,
    }
    limits
}

fn bytes(
    section: &Section<'_, '_>,
    field: Field,
    min: Bytes,
    max: Bytes,
    report: &mut Report,
) -> Option<Bytes> {
    section
        .read(field, report, |text| {
            let bytes: Bytes = text
                .parse()
                .map_err(|error: crate::manifest::NotAQuantity| error.to_string())?;
            if bytes < min || bytes > max {
                return Err(format!("expected {min} to {max}"));
            }
            Ok(bytes)
        })
        .map(toml::Spanned::into_inner)
}

fn duration(section: &Section<'_, '_>, field: Field, report: &mut Report) -> Option<Duration> {
    section
        .read(field, report, |text| {
            let duration = parse_duration(text).map_err(|error| error.to_string())?;
            if duration < MIN_TIME || duration > MAX_DEADLINE {
                let (min, max) = (format_duration(MIN_TIME), format_duration(MAX_DEADLINE));
                return Err(format!("expected {min} to {max}"));
            }
            Ok(duration)
        })
        .map(toml::Spanned::into_inner)
}
