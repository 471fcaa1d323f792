//! TLS under coordinator connections and network links. Only with the feature `tls`.

use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use shmesh::{AuthKey, Coordinator, Error, Node, Raw, Tls, TlsFiles, Transports};

use crate::support::{PATIENCE, TempDir, payload};

/// An authority, and certificates of it for this host.
struct Authority {
    dir: TempDir,
    ca: PathBuf,
}

impl Authority {
    fn new() -> Self {
        let dir = TempDir::new();
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_cert = params.self_signed(&ca_key).unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, ca_cert.pem()).unwrap();
        let issuer = Issuer::new(params, ca_key);
        let key = KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned(), "robot".to_owned()];
        let cert = CertificateParams::new(names).unwrap();
        let cert = cert.signed_by(&key, &issuer).unwrap();
        std::fs::write(dir.path().join("cert.pem"), cert.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        Self { dir, ca }
    }

    /// Certificates of this authority; others' are checked against `ca`.
    fn files(&self, ca: &Path, is_mutual: bool) -> TlsFiles {
        TlsFiles {
            cert: self.dir.path().join("cert.pem"),
            key: self.dir.path().join("key.pem"),
            ca: ca.to_owned(),
            is_mutual,
            server_name: None,
        }
    }

    fn tls(&self) -> Tls {
        Tls::from_files(&self.files(&self.ca, true)).unwrap()
    }
}

fn key() -> AuthKey {
    AuthKey::new(&[7; 32]).unwrap()
}

/// Runs with a coordinator that uses `tls` and the key.
async fn with_coordinator(tls: Tls, test: impl AsyncFnOnce(String)) {
    let coordinator = Coordinator::bind("127.0.0.1:0").await.unwrap();
    let coordinator = coordinator.with_tls(tls).with_auth_key(key());
    let address = coordinator.local_addr().unwrap().to_string();
    tokio::select! {
        () = coordinator.run(std::future::pending()) => {}
        () = test(address) => {}
    }
}

async fn node(name: &str, address: &str, tls: Option<Tls>) -> Result<Node, Error> {
    let mut builder = Node::builder(name)
        .coordinator(address)
        .transports(Transports::Network)
        .auth_key(key())
        .without_signal_handling();
    if let Some(tls) = tls {
        builder = builder.tls(tls);
    }
    builder.build().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_every_size_pass_through_tls_channels() {
    let authority = Authority::new();
    with_coordinator(authority.tls(), async |address| {
        let one = node("one", &address, Some(authority.tls())).await.unwrap();
        let two = node("two", &address, Some(authority.tls())).await.unwrap();
        let mut publisher = one.publisher::<Raw>("t").build().unwrap();
        let mut subscriber = two.subscriber::<Raw>("t").build().unwrap();
        publisher.wait_for_listener().await.unwrap();
        for (number, size) in (0..).zip([0, 1, 96, 97, 5000, 16_384, 70_000, 3_000_000]) {
            publisher.publish_bytes(&payload(number, size)).unwrap();
            let sample = if number % 2 == 0 {
                subscriber.recv().await.unwrap()
            } else {
                subscriber.recv_spin(PATIENCE).unwrap()
            };
            assert_eq!(sample.bytes(), payload(number, size), "{size} bytes");
        }
        assert_eq!(subscriber.stats().lost, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_certified_or_speaks_in_the_clear_is_not_let_in() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    with_coordinator(authority.tls(), async |address| {
        let clear = node("clear", &address, None).await.unwrap_err();
        assert!(
            matches!(clear, Error::TlsMismatch { theirs: true }),
            "{clear}"
        );
        let doubting = Some(stranger.tls());
        let error = node("doubting", &address, doubting).await.unwrap_err();
        assert!(matches!(error, Error::Tls(_)), "{error}");
        // It believes the coordinator, but nobody believes it.
        let foreign = stranger.files(&authority.ca, false);
        let foreign = Some(Tls::from_files(&foreign).unwrap());
        assert!(node("foreign", &address, foreign).await.is_err());
        node("friend", &address, Some(authority.tls()))
            .await
            .unwrap();
    })
    .await;
    let plain = Coordinator::bind("127.0.0.1:0").await.unwrap();
    let address = plain.local_addr().unwrap().to_string();
    tokio::select! {
        () = plain.run(std::future::pending()) => {}
        refused = node("tls", &address, Some(authority.tls())) => {
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::Tls(_)), "{error}");
        }
    }
}

#[test]
fn files_that_are_wrong_are_named() {
    let authority = Authority::new();
    let good = authority.files(&authority.ca, false);
    let missing = TlsFiles {
        ca: "/nowhere/ca.pem".into(),
        ..good.clone()
    };
    let swapped = TlsFiles {
        cert: good.key.clone(),
        ..good.clone()
    };
    for (files, word) in [(missing, "/nowhere/ca.pem"), (swapped, "key.pem")] {
        let error = Tls::from_files(&files).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn the_speedtest_runs_inside_tls_channels() {
    let authority = Authority::new();
    let path = |name: &str| authority.dir.path().join(name);
    let out = Command::new(env!("CARGO_BIN_EXE_mesh-speedtest"))
        .args(["local", "--transport", "tcp", "--json", "--seconds", "0.1"])
        .args(["--message-size", "1k", "--payload", "verify"])
        .arg("--tls-cert")
        .arg(path("cert.pem"))
        .arg("--tls-key")
        .arg(path("key.pem"))
        .arg("--tls-ca")
        .arg(path("ca.pem"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{said}");
    assert_eq!(String::from_utf8(out.stdout).unwrap().lines().count(), 3);
}

#[test]
fn launched_nodes_join_inside_tls_channels_whatever_their_directory_is() {
    let authority = Authority::new();
    let mesh = env!("CARGO_BIN_EXE_mesh");
    // It ends when the second one, which joins the mesh by its environment alone, has heard it.
    let file = format!(
        "coordinator: {{port: 0}}
nodes:
  talk: {{command: [{mesh}, topic, send, pose, '1', --json-topic], cwd: /}}
  hear:
    command: [{mesh}, topic, echo, pose, --count, '1']
    depends_on: {{topic: pose}}
"
    );
    std::fs::write(authority.dir.path().join("launch.yaml"), file).unwrap();
    let out = Command::new(mesh)
        .args(["launch", "--tls-cert", "cert.pem", "--tls-key", "key.pem"])
        .args(["--tls-ca", "ca.pem", "--tls-mutual"])
        .current_dir(authority.dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{said}");
    let heard = String::from_utf8(out.stdout).unwrap();
    assert_eq!(heard, "[hear  ] 1\n", "{said}");
}

#[test]
fn variables_do_what_the_arguments_do() {
    let authority = Authority::new();
    let path = |name: &str| authority.dir.path().join(name);
    let launch = |set: &[(&str, &str)]| {
        let file = path("launch.yaml");
        let mesh = env!("CARGO_BIN_EXE_mesh");
        let nodes = format!("nodes: {{look: {{command: [{mesh}, node, list]}}}}");
        std::fs::write(&file, format!("coordinator: {{port: 0}}\n{nodes}")).unwrap();
        let mut command = Command::new(mesh);
        command.args(["launch", "--json"]).arg(file);
        for (name, value) in set {
            command.env(name, path(value));
        }
        let out = command.output().unwrap();
        (
            out.status.code(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    };
    let files = [
        (shmesh::TLS_CERT_VARIABLE, "cert.pem"),
        (shmesh::TLS_KEY_VARIABLE, "key.pem"),
        (shmesh::TLS_CA_VARIABLE, "ca.pem"),
    ];
    let (code, said) = launch(&files);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = launch(&files[..2]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("SHMESH_TLS_CA is not set"), "{said}");
}
