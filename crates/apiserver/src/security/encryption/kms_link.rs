//! The thread that talks to a key management service. It has a runtime of its own, so that whoever seals or opens values,
//! which cannot wait for a future, waits for an answer without holding up anything else.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, mpsc as blocking};
use std::time::Duration;

use kobune_grpc::Status;
use kobune_grpc::client::{Client, words};
use tokio::sync::mpsc;

use super::kms::{State, new_seed};

/// How often a service is asked how it is, and how often one that is not well; upstream's.
const WELL: Duration = Duration::from_secs(60);
const UNWELL: Duration = Duration::from_secs(10);

/// What a service calls its protocol.
const VERSIONS: [&str; 2] = ["v2", "v2beta1"];

const STATUS: &str = "/v2.KeyManagementService/Status";
const ENCRYPT: &str = "/v2.KeyManagementService/Encrypt";
const DECRYPT: &str = "/v2.KeyManagementService/Decrypt";

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StatusResponse {
    #[prost(string, tag = "1")]
    pub(super) version: String,
    #[prost(string, tag = "2")]
    pub(super) healthz: String,
    #[prost(string, tag = "3")]
    pub(super) key_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EncryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) uid: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EncryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub(super) annotations: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DecryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) uid: String,
    #[prost(string, tag = "3")]
    pub(super) key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub(super) annotations: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) plaintext: Vec<u8>,
}

/// What a service has encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Encrypted {
    pub(super) ciphertext: Vec<u8>,
    /// The service's own name of its key.
    pub(super) key_id: String,
    /// What the service wants to be told when it decrypts.
    pub(super) annotations: BTreeMap<String, Vec<u8>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{}", words(.0))]
    Refused(Status),
    #[error("the thread that asks it has ended")]
    Ended,
}

/// A value to decrypt, and where the answer goes.
struct Question {
    encrypted: Encrypted,
    answer: blocking::SyncSender<Result<Vec<u8>, LinkError>>,
}

/// The way to the thread; it ends when this is dropped.
pub(super) struct Link {
    questions: mpsc::UnboundedSender<Question>,
}

impl Link {
    /// Starts the thread, and waits until the service has answered once or has not.
    pub(super) fn start(name: &str, socket: PathBuf, timeout: Duration, state: Arc<State>) -> std::io::Result<Link> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (questions, asked) = mpsc::unbounded_channel();
        let (tried, first) = blocking::sync_channel(1);
        let talk = Talk { name: name.to_owned(), socket, timeout, state };
        let run = move || runtime.block_on(talk.run(asked, tried));
        std::thread::Builder::new().name("kms".to_owned()).spawn(run)?;
        // The sender is dropped if the thread ends, which ends the wait as well.
        first.recv().unwrap_or_default();
        Ok(Link { questions })
    }

    /// Asks the service for what it once encrypted.
    pub(super) fn decrypt(&self, encrypted: Encrypted) -> Result<Vec<u8>, LinkError> {
        let (answer, answered) = blocking::sync_channel(1);
        self.questions.send(Question { encrypted, answer }).map_err(|_| LinkError::Ended)?;
        // Every question is answered within the service's time, or its sender is dropped.
        answered.recv().unwrap_or(Err(LinkError::Ended))
    }
}

/// What the thread does.
struct Talk {
    name: String,
    socket: PathBuf,
    timeout: Duration,
    state: Arc<State>,
}

impl Talk {
    async fn run(self, mut questions: mpsc::UnboundedReceiver<Question>, tried: blocking::SyncSender<()>) {
        let client = Client::new(self.socket.clone());
        let mut well = self.ask(&client).await;
        if tried.send(()).is_err() {
            return;
        }
        loop {
            let pause = if well { WELL } else { UNWELL };
            // Dropping the pause only moves the next look at the service; questions stay in their queue.
            tokio::select! {
                question = questions.recv() => {
                    let Some(question) = question else { return };
                    tokio::spawn(decrypt(client.clone(), question, self.timeout));
                }
                () = tokio::time::sleep(pause) => well = self.ask(&client).await,
            }
        }
    }

    /// Asks the service how it is, and for a seed of the key that it has now.
    async fn ask(&self, client: &Client) -> bool {
        let found = self.look(client).await;
        if let Err(problem) = &found {
            tracing::warn!(kms = self.name, problem, "a key management service is not well");
        }
        let well = found.is_ok();
        self.state.note(found);
        well
    }

    async fn look(&self, client: &Client) -> Result<(), String> {
        let told = |status: Status| words(&status);
        let status: StatusResponse = client.call(STATUS, StatusRequest {}, self.timeout).await.map_err(told)?;
        if status.healthz != "ok" {
            return Err(format!("it says that it is {:?}", status.healthz));
        }
        if !VERSIONS.contains(&status.version.as_str()) {
            return Err(format!("it speaks version {:?}, expected one of {VERSIONS:?}", status.version));
        }
        if self.state.confirm(&status.key_id) {
            return Ok(());
        }
        let seed = new_seed();
        let request = EncryptRequest { plaintext: seed.to_vec(), uid: uuid::Uuid::new_v4().to_string() };
        let made: EncryptResponse = client.call(ENCRYPT, request, self.timeout).await.map_err(told)?;
        if made.key_id != status.key_id {
            let (said, used) = (&status.key_id, &made.key_id);
            return Err(format!("it says that its key is {said:?} and encrypts with {used:?}"));
        }
        tracing::info!(kms = self.name, key = made.key_id, "a key management service has encrypted a new seed");
        let EncryptResponse { ciphertext, key_id, annotations } = made;
        self.state.adopt(seed, Encrypted { ciphertext, key_id, annotations })
    }
}

async fn decrypt(client: Client, question: Question, timeout: Duration) {
    let Encrypted { ciphertext, key_id, annotations } = question.encrypted;
    let uid = uuid::Uuid::new_v4().to_string();
    let request = DecryptRequest { ciphertext, uid, key_id, annotations };
    let answer = client.call::<_, DecryptResponse>(DECRYPT, request, timeout).await;
    // Whoever asked waits until it has the answer.
    let _unheard = question.answer.send(answer.map(|answer| answer.plaintext).map_err(LinkError::Refused));
}
