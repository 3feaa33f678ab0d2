//! Server-sent events, line by line as they come. Does not reconnect: that is another request.

use std::io::Read as _;

use super::error::Error;
use super::response::Body;

/// One event has at most this many bytes.
const MAX_EVENT: usize = 1 << 20;

/// One event (WHATWG HTML §9.2).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// What kind it is: `message` if the server says nothing else.
    pub event: String,
    /// The lines of its data.
    pub data: String,
    /// Its id, if it has one.
    pub id: Option<String>,
}

/// The events of an answer, each as soon as it is complete.
#[derive(Debug)]
pub struct Events {
    body: Body,
    lines: Lines,
    over: bool,
}

impl Events {
    pub(super) fn new(body: Body) -> Self {
        Self {
            body,
            lines: Lines::default(),
            over: false,
        }
    }
}

impl Iterator for Events {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.lines.take() {
                return Some(Ok(event));
            }
            if self.over {
                return None;
            }
            match self.body.piece() {
                // An event that is cut off is none.
                Ok(None) => self.over = true,
                Ok(Some(piece)) => {
                    if let Err(error) = self.lines.feed(&piece) {
                        self.over = true;
                        return Some(Err(error));
                    }
                }
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Lines as they come in pieces, and what they make.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    // A carriage return was the last byte: a line feed belongs to it.
    returned: bool,
    event: String,
    data: String,
    id: Option<String>,
    ready: std::collections::VecDeque<Event>,
}

impl Lines {
    fn take(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    fn feed(&mut self, piece: &[u8]) -> Result<(), Error> {
        for byte in piece.bytes() {
            let byte = byte.map_err(|error| Error::Unreadable(error.to_string()))?;
            let after_return = std::mem::replace(&mut self.returned, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => self.end_line()?,
                other => self.line.push(other),
            }
            if self.line.len() + self.data.len() > MAX_EVENT {
                return Err(Error::TooLarge { limit: MAX_EVENT });
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), Error> {
        let line = String::from_utf8(std::mem::take(&mut self.line))
            .map_err(|_| Error::Unreadable("expected events in UTF-8".to_owned()))?;
        if line.is_empty() {
            self.end_event();
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            _comment_or_unknown => {}
        }
        Ok(())
    }

    fn end_event(&mut self) {
        let event = std::mem::take(&mut self.event);
        let mut data = std::mem::take(&mut self.data);
        if data.is_empty() {
            return;
        }
        data.pop();
        self.ready.push_back(Event {
            event: if event.is_empty() {
                "message".to_owned()
            } else {
                event
            },
            data,
            id: self.id.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        let text = ": hello\r\ndata: a\ndata:b\n\nevent: done\rid: 7\rdata:  x\r\r\n\ndata: cut off\n";
        for size in 1..=text.len() {
            let mut lines = Lines::default();
            for piece in text.as_bytes().chunks(size) {
                lines.feed(piece).unwrap();
            }
            let made: Vec<_> = std::iter::from_fn(|| lines.take())
                .map(|event| (event.event, event.data, event.id))
                .collect();
            let expected = [
                ("message".to_owned(), "a\nb".to_owned(), None),
                ("done".to_owned(), " x".to_owned(), Some("7".to_owned())),
            ];
            assert_eq!(made, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn an_event_without_end_is_not_kept() {
        let mut lines = Lines::default();
        let line = [b'x'; 4096];
        let error = std::iter::repeat_with(|| lines.feed(&line)).find(Result::is_err);
        assert_eq!(error, Some(Err(Error::TooLarge { limit: MAX_EVENT })));
    }
}
