//! Between those who log and who reads it: lines wait here, and are lost where too many do. It must never make anybody
//! wait who logs: a container runtime that stalls leaves its pipe full, and to write there would stop hook calls, signals
//! and, through their own pipes, the translators.
//!
//! The one thread beside ours does nothing but write; processes that it started would end with it (PR_SET_PDEATHSIG(2const)).
//! Writes that do not wait would need O_NONBLOCK, which others that have our standard error would suffer too.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Takes lines and returns at once. Copies share the room.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Whenever `state` has changed.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Lines that wait.
    bytes: Vec<u8>,
    /// What came after them, and is not among them.
    lost_lines: u64,
    /// Other lines are being written.
    writing: bool,
}

impl Queue {
    /// Starts the thread that moves lines to `sink`. `tell_lost` is called there with a number of lines, and is to log it.
    ///
    /// # Errors
    /// What the kernel says of a thread.
    pub(super) fn drain(
        &self,
        mut sink: impl Write + Send + 'static,
        tell_lost: impl Fn(u64) + Send + 'static,
    ) -> io::Result<()> {
        let queue = self.clone();
        let work = move || {
            loop {
                let (bytes, lost_lines) = queue.take();
                // First in the queue that was emptied just now: so it stands where they would.
                if lost_lines > 0 {
                    tell_lost(lost_lines);
                }
                write(&mut sink, &bytes);
                queue.written();
            }
        };
        thread::Builder::new().name("log".to_owned()).stack_size(STACK_BYTES).spawn(work)?;
        Ok(())
    }

    /// Waits until everything is written, for a moment at most.
    pub(super) fn flush(&self) {
        let waits = |state: &mut State| state.writing || !state.bytes.is_empty();
        let _ = self
            .0
            .changed
            .wait_timeout_while(self.lock(), FLUSH_DEADLINE, waits)
            .unwrap_or_else(PoisonError::into_inner);
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        // Once one is lost, a shorter one may not go before it.
        if state.lost_lines > 0 || state.bytes.len() + line.len() > WAITING_BYTES_MAX {
            state.lost_lines += 1;
        } else {
            state.bytes.extend_from_slice(line);
            self.0.changed.notify_all();
        }
    }

    /// Waits for lines.
    fn take(&self) -> (Vec<u8>, u64) {
        let nothing = |state: &mut State| state.bytes.is_empty() && state.lost_lines == 0;
        let waited = self.0.changed.wait_while(self.lock(), nothing);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.writing = true;
        (mem::take(&mut state.bytes), mem::take(&mut state.lost_lines))
    }

    fn written(&self) {
        self.lock().writing = false;
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line comes in one piece.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What cannot be written has nobody who could be told.
fn write(sink: &mut impl Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(length @ 1..) => bytes = bytes.get(length..).unwrap_or_default(),
            // Somebody else has it too, and does not wait.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(AGAIN_PAUSE),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// Room for lines that wait: a start's, some times over. As much again may be on its way out.
const WAITING_BYTES_MAX: usize = 256 << 10;
/// What is said in the end may take so long.
const FLUSH_DEADLINE: Duration = Duration::from_millis(200);
/// Until the next try where a write would have to wait, and may not.
const AGAIN_PAUSE: Duration = Duration::from_millis(10);
/// It formats a line at most.
const STACK_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read};
    use std::time::Instant;

    use super::*;

    /// What `queue` drains into, with what it tells of lines lost.
    fn reader(queue: &Queue) -> impl Read + use<> {
        let (reader, writer) = io::pipe().unwrap();
        let telling = queue.clone();
        queue.drain(writer, move |lost| telling.push(format!("lost {lost}\n").as_bytes())).unwrap();
        reader
    }

    #[test]
    fn lines_that_nobody_reads_are_lost_without_waiting_and_counted_when_somebody_does() {
        let queue = Queue::default();
        let reader = reader(&queue);
        let line = |number: u64| format!("{number} {}\n", "x".repeat(1000));
        let begun = Instant::now();
        // More than a pipe holds: from here on nothing leaves the queue.
        let long = "z".repeat(100_000) + "\n";
        queue.push(long.as_bytes());
        while !queue.lock().writing {
            assert!(begun.elapsed() < Duration::from_secs(10), "nothing is written");
            thread::yield_now();
        }
        let mut pushed = 0;
        while queue.lock().lost_lines < 10 {
            queue.push(line(pushed).as_bytes());
            pushed += 1;
        }
        // Shorter than what is left of the room.
        queue.push(b"x\n");
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        assert_eq!(lines.next().unwrap() + "\n", long);
        for number in 0..pushed - 10 {
            assert_eq!(lines.next().unwrap() + "\n", line(number));
        }
        assert_eq!(lines.next().unwrap(), "lost 11");
        queue.push(b"y\n");
        assert_eq!(lines.next().unwrap(), "y");
    }

    #[test]
    fn a_flush_waits_until_all_is_written_and_not_for_ever() {
        let queue = Queue::default();
        let mut reader = reader(&queue);
        queue.push(b"one\ntwo\n");
        queue.flush();
        let mut read = [0; 8];
        assert_eq!(reader.read(&mut read).unwrap(), 8);
        assert_eq!(&read, b"one\ntwo\n");
        // More than a pipe holds.
        queue.push(&[b'x'; WAITING_BYTES_MAX]);
        let begun = Instant::now();
        queue.flush();
        assert!(begun.elapsed() >= FLUSH_DEADLINE && begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_reader_that_has_gone_is_no_fault_of_who_logs() {
        let queue = Queue::default();
        drop(reader(&queue));
        for _ in 0..100 {
            queue.push(b"line\n");
            queue.flush();
        }
        assert!(queue.lock().bytes.is_empty());
    }
}
