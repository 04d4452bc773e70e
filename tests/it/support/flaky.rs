//! A proxy before an HTTP server that spoils some answers.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoilt {
    /// The connection ends before the request reaches the server.
    Reset,
    /// The server does what is asked, and the answer is lost.
    AnswerLost,
    /// The connection ends in the midst of the body.
    CutOff,
    /// Half of the body comes, and the length says that it is all.
    Half,
    /// The server is busy.
    Busy,
    /// The token has expired.
    Expired,
}

impl Spoilt {
    /// Those that pass.
    pub const PASSING: [Spoilt; 5] = [Spoilt::Reset, Spoilt::AnswerLost, Spoilt::CutOff, Spoilt::Half, Spoilt::Busy];
}

type Schedule = dyn Fn(usize, &str) -> Option<Spoilt> + Send + Sync;

/// A running proxy; it ends with the process.
pub struct Flaky {
    port: u16,
    spoilt: Arc<AtomicUsize>,
}

impl Flaky {
    /// A proxy before the server at `port`. The schedule gets the number of the request, from 1, and its first line.
    pub fn before(port: u16, schedule: impl Fn(usize, &str) -> Option<Spoilt> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let flaky = Flaky { port: listener.local_addr().unwrap().port(), spoilt: Arc::default() };
        let (schedule, count, spoilt): (Arc<Schedule>, _, _) =
            (Arc::new(schedule), Arc::new(AtomicUsize::new(0)), Arc::clone(&flaky.spoilt));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (schedule, count, spoilt) = (Arc::clone(&schedule), Arc::clone(&count), Arc::clone(&spoilt));
                std::thread::spawn(move || {
                    let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                    let decide = |line: &str| {
                        let fault = schedule(number, line);
                        spoilt.fetch_add(usize::from(fault.is_some()), Ordering::SeqCst);
                        fault
                    };
                    // A connection that ends is what this is about.
                    let _ = serve(client, port, decide);
                });
            }
        });
        flaky
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How many answers were spoilt.
    pub fn spoilt(&self) -> usize {
        self.spoilt.load(Ordering::SeqCst)
    }
}

fn serve(mut client: TcpStream, port: u16, decide: impl Fn(&str) -> Option<Spoilt>) -> std::io::Result<()> {
    let (head, body) = message(&mut client)?;
    let Some((line, headers)) = head.split_once("\r\n") else { return Ok(()) };
    let fault = decide(line);
    match fault {
        Some(Spoilt::Reset) => return Ok(()),
        Some(Spoilt::Busy) => return answer(&mut client, "503 Slow Down", "<Error><Code>SlowDown</Code></Error>"),
        Some(Spoilt::Expired) => {
            return answer(&mut client, "400 Bad Request", "<Error><Code>ExpiredToken</Code></Error>");
        }
        _ => {}
    }
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    let kept: Vec<&str> = headers.lines().filter(|l| !l.to_lowercase().starts_with("connection:")).collect();
    write!(server, "{line}\r\n{}\r\nConnection: close\r\n\r\n", kept.join("\r\n"))?;
    server.write_all(&body)?;
    let mut all = Vec::new();
    server.read_to_end(&mut all)?;
    let end = all.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(all.len());
    let (head, body) = (String::from_utf8_lossy(&all[..end]).into_owned(), all.get(end + 4..).unwrap_or_default());
    let (sent, says) = match fault {
        Some(Spoilt::AnswerLost) => return Ok(()),
        Some(Spoilt::CutOff) if !body.is_empty() => (body.len() / 2, body.len()),
        Some(Spoilt::Half) if !body.is_empty() => (body.len() / 2, body.len() / 2),
        _ => (body.len(), body.len()),
    };
    let is_length = |line: &str| line.to_lowercase().starts_with("content-length:");
    let is_head = line.starts_with("HEAD");
    let length = |l: &str| if is_length(l) && !is_head { format!("Content-Length: {says}") } else { l.to_owned() };
    let head: Vec<String> = head.lines().map(length).collect();
    client.write_all(format!("{}\r\n\r\n", head.join("\r\n")).as_bytes())?;
    client.write_all(&body[..sent])
}

fn answer(client: &mut TcpStream, status: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n");
    client.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes())
}

/// A request: what stands before the empty line, and the body.
fn message(stream: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1 << 16];
    let end = loop {
        match bytes.windows(4).position(|window: &[u8]| window == b"\r\n\r\n") {
            Some(end) => break end,
            None => match stream.read(&mut buffer)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                read => bytes.extend_from_slice(&buffer[..read]),
            },
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = bytes.split_off(end + 4);
    while body.len() < length.unwrap_or(0) {
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => body.extend_from_slice(&buffer[..read]),
        }
    }
    Ok((head, body))
}
