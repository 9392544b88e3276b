//! The peer: ordinary blocking sockets on threads of their own.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use super::pattern;

/// Longest silence a peer's thread endures before it fails its test.
const PATIENCE: Duration = Duration::from_secs(60);

/// A listener on a free port of `address`.
pub fn listen(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Accepts one connection.
pub fn accept(listener: &TcpListener) -> TcpStream {
    patient(listener.accept().unwrap().0)
}

/// Reads and checks the stream `salt` to its end; gives its length.
pub fn read_all(stream: &mut TcpStream, salt: u64) -> u64 {
    let mut position = 0;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = stream.read(&mut buffer).unwrap();
        if read == 0 {
            return position;
        }
        pattern::check(salt, position, &buffer[..read]);
        position += read as u64;
    }
}

/// Sends the first `len` bytes of the stream `salt`.
pub fn write_all(stream: &mut TcpStream, salt: u64, len: u64) {
    write_at(stream, salt, 0, len);
}

/// Sends `len` bytes of the stream `salt` from `position` on.
pub fn write_at(stream: &mut TcpStream, salt: u64, mut position: u64, len: u64) {
    let end = position + len;
    while position < end {
        let chunk = usize::try_from((end - position).min(256 * 1024)).unwrap();
        stream.write_all(pattern::at(salt, position, chunk)).unwrap();
        position += chunk as u64;
    }
}

/// Both directions at once: sends `down` bytes of stream 2 and FIN, expects stream 1 to its end.
pub fn exchange(stream: TcpStream, down: u64) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut writer = stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            write_all(&mut writer, 2, down);
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut reader = stream;
        let read = read_all(&mut reader, 1);
        writing.join().unwrap();
        read
    })
}
