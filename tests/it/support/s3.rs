//! A real S3-compatible server for a test: moto's, started as a process of its own and killed when the test ends.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tenure::lake::Store;
use url::Url;

use super::python::venv;

/// A running server with one bucket, `lake`.
pub struct S3Server {
    process: Child,
    port: u16,
}

impl S3Server {
    /// Starts a server, or says why there is none: the Python environment of `scripts/python.sh` is absent. Under CI
    /// that is a failure.
    pub fn start() -> Option<Self> {
        let python = venv()?.join("bin/python");
        // Another process may take the port between our look and the server's start: then the next one is tried.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let process = Command::new(&python)
                .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut server = S3Server { process, port };
            if server.wait_until_it_answers() {
                assert_eq!(server.request("PUT", "/lake"), 200, "the bucket is made");
                return Some(server);
            }
        }
        panic!("moto's server does not start");
    }

    fn wait_until_it_answers(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(60) {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        false
    }

    /// The status of a request without a body, signed by nobody: moto does not mind.
    fn request(&self, method: &str, path: &str) -> u16 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.port
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The environment variables with which a process finds this server.
    pub fn env(&self) -> Vec<(String, String)> {
        env_for(&format!("http://127.0.0.1:{}", self.port))
    }

    /// `s3://lake/FOLDER/`.
    pub fn url(&self, folder: &str) -> Url {
        Url::parse(&format!("s3://lake/{folder}/")).unwrap()
    }

    /// The store at `s3://lake/FOLDER/`.
    pub fn store(&self, folder: &str) -> Store {
        Store::open_with(&self.url(folder), &self.env()).unwrap()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The environment variables with which a process uses an endpoint.
pub fn env_for(endpoint: &str) -> Vec<(String, String)> {
    patient_env_for(endpoint, 5)
}

/// The same with so many seconds for tries of what fails.
pub fn patient_env_for(endpoint: &str, seconds: u32) -> Vec<(String, String)> {
    let seconds = seconds.to_string();
    let variables = [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ALLOW_HTTP", "true"),
        ("TENURE_RETRY_SECONDS", seconds.as_str()),
    ];
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
