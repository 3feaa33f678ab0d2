//! The one thread that owns the device, and the queues in front of it: one bounded lane for each agent instance, served in turn.
//! Not the device: `device.rs`. No decision about permits is made here.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use claviger_core::InstanceId;
use claviger_core::custody::CustodyError;
use tokio::sync::oneshot;

use crate::device::Device;
use crate::error::TpmError;
use crate::swtpm::ChildId;

/// Waiting requests of one lane. At 0.2 to 0.6 s for a signature of a slow TPM, more could not be served within the deadline.
pub(crate) const LANE_BOUND: usize = 16;

/// Waiting requests of the host's own lane. The host bounds itself; this only keeps a defect from taking all memory.
pub(crate) const HOST_BOUND: usize = 256;

/// From asking to the answer. A slow TPM makes a key in some seconds.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A TPM may test itself after the machine started, and then make its storage root key.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a program that ends waits for the device: what it does then is done, and the rest is abandoned.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// The host itself: making, opening, sealing.
    Host,
    /// An agent.
    Agent(InstanceId),
}

impl Lane {
    const fn bound(self) -> usize {
        match self {
            Self::Host => HOST_BOUND,
            Self::Agent(_) => LANE_BOUND,
        }
    }
}

type Job = Box<dyn FnOnce(&mut Device) + Send>;

/// The way to the thread. Dropping the last one ends it and closes the device.
#[derive(Debug)]
pub(crate) struct Actor {
    shared: Arc<Shared>,
    // Only `drop` receives, and has the only reference then.
    closed: Mutex<mpsc::Receiver<()>>,
    deadline: Duration,
    child: ChildId,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    // Invariant: no lane is empty; the first is served next; each has at most its bound of jobs.
    lanes: VecDeque<(Lane, VecDeque<Job>)>,
    closed: bool,
    /// When the command that runs now began.
    running: Option<Instant>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("lanes", &self.lanes.len())
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

impl Queue {
    fn push(&mut self, lane: Lane, job: Job) -> Result<(), CustodyError> {
        if self.closed {
            return Err(CustodyError::Unavailable("the TPM is closed".to_owned()));
        }
        match self.lanes.iter_mut().find(|(name, _)| *name == lane) {
            Some((_, jobs)) if jobs.len() >= lane.bound() => Err(CustodyError::Busy),
            Some((_, jobs)) => {
                jobs.push_back(job);
                Ok(())
            }
            None => {
                self.lanes.push_back((lane, VecDeque::from([job])));
                Ok(())
            }
        }
    }

    /// The next job; its lane goes to the end of the round.
    fn pop(&mut self) -> Option<Job> {
        let (lane, mut jobs) = self.lanes.pop_front()?;
        let job = jobs.pop_front();
        if !jobs.is_empty() {
            self.lanes.push_back((lane, jobs));
        }
        job
    }
}

impl Actor {
    /// Starts the thread, which opens the device. Returns when it is open, with what `describe` says of it.
    pub(crate) fn start<T: Send + 'static>(
        deadline: Duration,
        child: ChildId,
        open: impl FnOnce() -> Result<Device, TpmError> + Send + 'static,
        describe: impl FnOnce(&mut Device) -> T + Send + 'static,
    ) -> Result<(Self, T), TpmError> {
        let shared = Arc::new(Shared::default());
        let (ready, opened) = mpsc::sync_channel(1);
        let (closing, closed) = mpsc::sync_channel(1);
        let theirs = Arc::clone(&shared);
        thread::Builder::new()
            .name("claviger-tpm".to_owned())
            .spawn(move || {
                let _closer = CloseOnExit(Arc::clone(&theirs));
                match open() {
                    Ok(mut device) => {
                        let about = describe(&mut device);
                        if ready.send(Ok(about)).is_ok() {
                            theirs.serve(&mut device);
                        }
                        device.close();
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
                // Nobody listens if the program is in no hurry to know.
                closing.send(()).ok();
            })
            .map_err(TpmError::Thread)?;
        let about = opened.recv_timeout(OPEN_TIMEOUT).map_err(|_| {
            // Frees the thread, which else would wait for ever and keep the child.
            child.kill();
            TpmError::Thread(io::Error::other("the TPM was not open in time"))
        })??;
        let actor = Self {
            shared,
            closed: Mutex::new(closed),
            deadline,
            child,
        };
        Ok((actor, about))
    }

    /// Does something with the device, in turn.
    ///
    /// Dropping the future takes the request back if it has not begun; what has begun is finished unseen.
    ///
    /// # Errors
    /// What the work fails with; `Busy` when the lane is full; `Unavailable` at the deadline.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce(&mut Device) -> Result<T, CustodyError> + Send + 'static,
    ) -> Result<T, CustodyError> {
        let late = || {
            CustodyError::Unavailable(format!(
                "the TPM did not answer within {} seconds",
                self.deadline.as_secs()
            ))
        };
        let until = Instant::now() + self.deadline;
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |device| {
            // Who asked has gone, or is about to: leave the device to others.
            if reply.is_closed() || Instant::now() >= until {
                return;
            }
            // A receiver that has gone meanwhile does not want it.
            drop(reply.send(work(device)));
        });
        self.shared.push(lane, job)?;
        match tokio::time::timeout_at(until.into(), answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(CustodyError::Unavailable("the TPM is closed".to_owned())),
            Err(_) => {
                self.end_hung_child();
                Err(late())
            }
        }
    }

    /// Asks for something that nobody waits for. Not done if the lane is full.
    pub(crate) fn post(&self, lane: Lane, work: impl FnOnce(&mut Device) + Send + 'static) {
        drop(self.shared.push(lane, Box::new(work)));
    }

    /// If one command has run for half the deadline, the private software TPM hangs: killing it frees the thread, which starts
    /// another. A device cannot be helped from here.
    fn end_hung_child(&self) {
        let running = self.shared.lock().running;
        // What ended meanwhile and began anew has not run for long. If it ends just now, a fresh child may be killed, which
        // costs one more start.
        if running.is_some_and(|since| since.elapsed() >= self.deadline / 2) {
            self.child.kill();
        }
    }
}

/// However the thread ends, whoever waits is told, and nobody else begins to wait.
struct CloseOnExit(Arc<Shared>);

impl Drop for CloseOnExit {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.closed = true;
        queue.lanes.clear();
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
        // Wait for the device to be closed in order, but not for one that hangs.
        let closed = self.closed.get_mut().unwrap_or_else(PoisonError::into_inner);
        if closed.recv_timeout(CLOSE_TIMEOUT) == Err(mpsc::RecvTimeoutError::Timeout) {
            // Nor leave a private software TPM behind that hangs.
            self.child.kill();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The lock is held for a few lines that cannot leave the queue half changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, lane: Lane, job: Job) -> Result<(), CustodyError> {
        self.lock().push(lane, job)?;
        self.wake.notify_one();
        Ok(())
    }

    /// Serves until closed.
    fn serve(&self, device: &mut Device) {
        loop {
            let job = {
                let mut queue = self.lock();
                queue.running = None;
                loop {
                    if queue.closed {
                        return;
                    }
                    if let Some(job) = queue.pop() {
                        queue.running = Some(Instant::now());
                        break job;
                    }
                    queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
            };
            job(device);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Job {
        Box::new(|_| {})
    }

    #[test]
    fn a_full_lane_refuses_and_the_others_do_not() {
        let mut queue = Queue::default();
        let flooder = Lane::Agent(InstanceId(1));
        for _ in 0..LANE_BOUND {
            queue.push(flooder, nothing()).unwrap();
        }
        assert!(matches!(queue.push(flooder, nothing()), Err(CustodyError::Busy)));
        queue.push(Lane::Agent(InstanceId(2)), nothing()).unwrap();
        for _ in 0..HOST_BOUND {
            queue.push(Lane::Host, nothing()).unwrap();
        }
        assert!(matches!(
            queue.push(Lane::Host, nothing()),
            Err(CustodyError::Busy)
        ));
    }

    #[test]
    fn lanes_are_served_in_turn_whatever_their_length() {
        let mut queue = Queue::default();
        let lanes = [1, 2, 3].map(|n| Lane::Agent(InstanceId(n)));
        for _ in 0..5 {
            queue.push(lanes[0], nothing()).unwrap();
        }
        queue.push(lanes[1], nothing()).unwrap();
        queue.push(lanes[2], nothing()).unwrap();
        queue.push(lanes[2], nothing()).unwrap();
        let mut order = Vec::new();
        while let Some((lane, _)) = queue.lanes.front() {
            order.push(*lane);
            assert!(queue.pop().is_some());
        }
        let [a, b, c] = lanes;
        assert_eq!(order, [a, b, c, a, c, a, a, a]);
    }

    #[test]
    fn a_closed_queue_takes_nothing() {
        let mut queue = Queue {
            closed: true,
            ..Queue::default()
        };
        assert!(matches!(
            queue.push(Lane::Host, nothing()),
            Err(CustodyError::Unavailable(_))
        ));
    }
}
