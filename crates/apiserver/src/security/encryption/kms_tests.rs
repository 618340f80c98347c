//! A key management service on a socket of this machine, whose key and health the tests change.

use bytes::Bytes;
use kobune_grpc::Status;
use kobune_grpc::server::{self, Service, decode, encode};
use tokio_util::sync::CancellationToken;

use super::super::kms_link::{DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusResponse};
use super::*;

const TIMEOUT: Duration = Duration::from_secs(20);

/// Encrypts by turning bits over, which is enough to see who asked for what.
struct Service2 {
    key_id: Mutex<String>,
    healthz: Mutex<&'static str>,
    decrypted: std::sync::atomic::AtomicUsize,
}

fn turned(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| !byte).collect()
}

impl Service for Service2 {
    async fn call(&self, method: &str, message: Bytes) -> Result<Bytes, Status> {
        let key_id = self.key_id.lock().clone();
        match method {
            "/v2.KeyManagementService/Status" => {
                let healthz = (*self.healthz.lock()).to_owned();
                Ok(encode(&StatusResponse { version: "v2".to_owned(), healthz, key_id }))
            }
            "/v2.KeyManagementService/Encrypt" => {
                let request: EncryptRequest = decode(message)?;
                let annotations = BTreeMap::from([("version.example.com".to_owned(), b"1".to_vec())]);
                Ok(encode(&EncryptResponse { ciphertext: turned(&request.plaintext), key_id, annotations }))
            }
            "/v2.KeyManagementService/Decrypt" => {
                let request: DecryptRequest = decode(message)?;
                if request.annotations.get("version.example.com").map(Vec::as_slice) != Some(b"1") {
                    return Err(Status::invalid_argument("the annotation is missing"));
                }
                self.decrypted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                Ok(encode(&DecryptResponse { plaintext: turned(&request.ciphertext) }))
            }
            other => Err(Status::unimplemented(other)),
        }
    }
}

/// A running service; it ends when it is dropped.
struct Running {
    service: Arc<Service2>,
    socket: std::path::PathBuf,
    _folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Running {
    fn start() -> Running {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("kms.sock");
        let service = Arc::new(Service2 {
            key_id: Mutex::new("first".to_owned()),
            healthz: Mutex::new("ok"),
            decrypted: Default::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(async { server::listen(&socket) }).expect("a socket");
        runtime.spawn(server::serve(listener, Arc::clone(&service), CancellationToken::new()));
        Running { service, socket, _folder: folder, runtime }
    }

    fn client(&self) -> Kms {
        Kms::start("keys", self.socket.clone(), TIMEOUT).expect("a thread")
    }

    fn decrypted(&self) -> usize {
        self.service.decrypted.load(std::sync::atomic::Ordering::SeqCst)
    }
}

#[test]
fn values_are_sealed_with_a_seed_that_the_service_encrypts() {
    let running = Running::start();
    let kms = running.client();
    assert_eq!(kms.check(), Ok(()));
    let sealed = kms.seal("/a", b"hunter2").expect("it is sealed");
    assert!(sealed.starts_with(b"k8s:enc:kms:v2:keys:"));
    assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
    assert_ne!(sealed, kms.seal("/a", b"hunter2").expect("it is sealed"), "no two are alike");
    assert_eq!(kms.open("/a", &sealed).expect("it is whole"), Some((b"hunter2".to_vec(), false)));
    assert!(kms.open("/b", &sealed).is_err(), "it belongs to its place");
    assert_eq!(kms.open("/a", b"k8s:enc:kms:v2:other:x").expect("another's"), None);
    assert_eq!(running.decrypted(), 0, "its own seed needs nobody");
    for at in 20..sealed.len() {
        let mut damaged = sealed.clone();
        damaged[at] ^= 1;
        let same = kms.open("/a", &damaged).ok().flatten().is_some_and(|(value, stale)| value == b"hunter2" && !stale);
        // What stands beside the value is for the service to judge; this one takes anything.
        let envelope = EncryptedObject::decode(&damaged[20..]).map(|object| object.encrypted_data);
        let touched = envelope.as_ref().ok()
            != EncryptedObject::decode(&sealed[20..]).map(|object| object.encrypted_data).as_ref().ok();
        assert!(!(same && touched), "damage at {at} goes unnoticed");
    }

    // Another server, or this one started again: the service is asked once for each seed.
    let before = running.decrypted();
    let again = running.client();
    for _ in 0..3 {
        assert_eq!(again.open("/a", &sealed).expect("it is whole"), Some((b"hunter2".to_vec(), false)));
    }
    assert_eq!(running.decrypted(), before + 1);
    // Another key of the service: a new seed, and what the old one wrote is to be written anew.
    *running.service.key_id.lock() = "second".to_owned();
    let rotated = running.client();
    assert_eq!(rotated.open("/a", &sealed).expect("it is whole"), Some((b"hunter2".to_vec(), true)));
    let fresh = rotated.seal("/a", b"hunter2").expect("it is sealed");
    assert_eq!(rotated.open("/a", &fresh).expect("it is whole"), Some((b"hunter2".to_vec(), false)));
}

#[test]
fn a_service_that_is_not_well_is_not_used() {
    let running = Running::start();
    let good = running.client();
    let sealed = good.seal("/a", b"x").expect("it is sealed");
    *running.service.healthz.lock() = "out of order";
    let kms = running.client();
    assert_eq!(kms.check(), Err("keys: it says that it is \"out of order\"".to_owned()));
    let error = kms.seal("/a", b"x").expect_err("there is no seed");
    assert!(error.problem.contains("out of order"), "{error}");
    // What is there can be read as long as the service decrypts.
    assert_eq!(kms.open("/a", &sealed).expect("it is whole"), Some((b"x".to_vec(), false)));
    drop(running.runtime);
    let gone = Kms::start("keys", running.socket, Duration::from_secs(5)).expect("a thread");
    assert!(gone.check().is_err());
    assert!(gone.open("/a", &sealed).expect_err("nobody decrypts").problem.contains("rpc error: code = Unavailable"));
}

#[test]
fn keys_are_derived_as_everywhere() {
    // RFC 5869, test case 1, whose first block of output is 32 bytes long.
    let bytes = |text: &str| -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("digits")).collect()
    };
    let seed = bytes("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
    let found = derived(&seed.try_into().expect("32 bytes"), &bytes("f0f1f2f3f4f5f6f7f8f9"));
    assert_eq!(found.to_vec(), bytes("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"));
}
