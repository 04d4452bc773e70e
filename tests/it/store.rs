//! One behaviour suite for every store.

use tenure::error::Class;
use tenure::lake::{PutOutcome, Store};
use url::Url;

use crate::support::s3::{S3Server, env_for};

async fn behaves(store: &Store) {
    assert_eq!(store.list("").await.unwrap(), []);
    assert_eq!(store.folders("a").await.unwrap(), [] as [String; 0]);
    assert_eq!(store.find("a/x").await.unwrap(), None);
    assert!(store.head("a/x").await.unwrap().is_none());
    let missing = store.get("a/x").await.unwrap_err();
    assert_eq!(missing.class(), Class::User);
    assert_eq!(missing.to_string(), format!("`{}a/x` is not there", store.url()));

    assert_eq!(store.put_new("a/x", "one").await.unwrap(), PutOutcome::Created);
    assert_eq!(store.put_new("a/x", "two").await.unwrap(), PutOutcome::Exists);
    assert_eq!(store.get("a/x").await.unwrap(), "one");
    let before = store.head("a/x").await.unwrap().unwrap();
    store.put("a/x", "three").await.unwrap();
    assert_eq!(store.get("a/x").await.unwrap(), "three");
    let after = store.head("a/x").await.unwrap().unwrap();
    assert_eq!((after.path.as_str(), after.size), ("a/x", 5));
    assert_ne!(before.etag, after.etag, "the etag tells a new content");

    store.put("a/ds=2026-07-02/p", "2").await.unwrap();
    store.put("a/ds=2026-07-01/p q", "1").await.unwrap();
    store.put("ab/z", "z").await.unwrap();
    let paths: Vec<String> = store.list("a").await.unwrap().into_iter().map(|o| o.path).collect();
    assert_eq!(paths, ["a/ds=2026-07-01/p q", "a/ds=2026-07-02/p", "a/x"]);
    assert_eq!(store.folders("a").await.unwrap(), ["ds=2026-07-01", "ds=2026-07-02"]);

    for _ in 0..2 {
        store.copy("a/ds=2026-07-01/p q", "b/copy").await.unwrap();
    }
    assert_eq!(store.get("b/copy").await.unwrap(), "1");
    assert_eq!(store.list("b").await.unwrap().len(), 1);
    assert_eq!(store.copy("b/none", "b/copy").await.unwrap_err().class(), Class::User);

    store.delete("b/copy").await.unwrap();
    store.delete("b/copy").await.unwrap();
    assert_eq!(store.list("b").await.unwrap(), []);
    uploads(store).await;
    one_of_many_creates(store).await;
}

async fn uploads(store: &Store) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("big");
    let big: Vec<u8> = (0..20_000_000_u32).map(|i| (i % 251) as u8).collect();
    for bytes in [&big[..0], &big[..10], &big[..8 << 20], &big[..]] {
        std::fs::write(&file, bytes).unwrap();
        store.upload(&file, "up/file").await.unwrap();
        assert!(store.get("up/file").await.unwrap() == bytes, "{} bytes come back as they went", bytes.len());
    }
    let absent = store.upload(&folder.path().join("none"), "up/file").await.unwrap_err();
    assert_eq!(absent.class(), Class::User);
}

async fn one_of_many_creates(store: &Store) {
    let puts = (0..8).map(|i| store.put_new("race", format!("writer {i}")));
    let outcomes: Vec<PutOutcome> = futures::future::try_join_all(puts).await.unwrap();
    assert_eq!(outcomes.iter().filter(|o| **o == PutOutcome::Created).count(), 1);
}

#[tokio::test]
async fn a_store_in_memory_behaves() {
    behaves(&Store::memory()).await;
}

#[tokio::test]
async fn a_store_on_disk_behaves_and_leaves_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a lake");
    let store = Store::open(&Url::from_directory_path(&root).unwrap()).unwrap();
    behaves(&store).await;
    let mut files: Vec<String> = walk(&root).into_iter().map(|p| p.display().to_string()).collect();
    files.sort();
    assert!(files.iter().all(|f| !f.contains('#')), "{files:?}");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn a_store_on_s3_behaves() {
    let Some(server) = S3Server::start() else { return };
    behaves(&server.store("folder/below")).await;
}

#[tokio::test]
async fn an_endpoint_that_nobody_answers_is_the_infrastructures_fault() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = Url::parse("s3://lake/night/").unwrap();
    let store = Store::open_with(&url, &env_for(&format!("http://127.0.0.1:{port}"))).unwrap();
    let started = std::time::Instant::now();
    let error = store.get("x.json").await.unwrap_err();
    assert_eq!(error.class(), Class::Infra);
    assert_eq!(error.to_string(), "`s3://lake/night/x.json` cannot be read");
    assert!(error.problems().next().unwrap().hint.as_ref().unwrap().contains("AWS_ENDPOINT_URL"));
    assert!((3..30).contains(&started.elapsed().as_secs()), "took {:?}", started.elapsed());
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_the_users_fault() {
    let Some(server) = S3Server::start() else { return };
    let store = Store::open_with(&Url::parse("s3://nowhere/").unwrap(), &server.env()).unwrap();
    let error = store.list("").await.unwrap_err();
    assert_eq!((error.class(), error.to_string().as_str()), (Class::User, "`s3://nowhere/` cannot be listed"));
}
