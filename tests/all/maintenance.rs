//! `verify` and `gc` as users run them: on a directory, on S3, and `verify` on the URL that readers
//! have; what they print, and their exit codes.

use crate::support::{git_http, local_git, program, s3_server};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use git_http::{Canned, GitHttp, StaticHttp};
use local_git::Repo;
use program::{files, program, signal, wait, wait_until};
use s3_server::S3Server;

/// SHA-256 of `abc`.
const LFS_OID: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// Too large for an LFS pointer, and not to be compressed: it is stored as it is.
fn noise() -> Vec<u8> {
    let mut noise = vec![0; 4000];
    fastrand::Rng::with_seed(1).fill(&mut noise);
    noise
}

fn flip_in_noise(bytes: &mut [u8]) {
    let (noise, len) = (noise(), 16);
    let at = bytes.windows(len).position(|part| part == &noise[1000..1000 + len]);
    bytes[at.expect("it is stored as it is")] ^= 1;
}

/// A file that grows, so that packs have deltas; a tag; an LFS pointer.
fn sample() -> Repo {
    let repo = Repo::new();
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{LFS_OID}\nsize 3\n");
    let noise = noise();
    let mut grows = String::new();
    for round in 0..12 {
        grows += &format!("line {round} of a file that grows, so that deltas are worth it\n");
        let files: [(&str, &[u8]); 4] = [
            (".gitattributes", b"*.bin filter=lfs\n"),
            ("a.bin", pointer.as_bytes()),
            ("grows", grows.as_bytes()),
            ("noise", &noise),
        ];
        repo.commit("refs/heads/main", &files);
    }
    repo.git(&["tag", "-a", "-m", "annotated", "v1", "main~2"]);
    repo
}

/// A bucket that is a folder: S3 and plain HTTP serve the same files.
struct World {
    repo: Repo,
    source: GitHttp,
    home: tempfile::TempDir,
    s3: S3Server,
    http: StaticHttp,
}

impl World {
    fn new() -> World {
        let repo = sample();
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("s3/bucket")).unwrap();
        World {
            source: GitHttp::start(repo.path(), git_http::Options::default()),
            s3: S3Server::start(home.path().join("s3")),
            http: StaticHttp::start(&home.path().join("s3/bucket")),
            repo,
            home,
        }
    }

    fn dir(&self, mirror: &str) -> PathBuf {
        self.home.path().join("s3/bucket").join(mirror)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = program(self.home.path());
        command
            .args(words)
            .env("AWS_ENDPOINT_URL", self.s3.endpoint())
            .env("AWS_ACCESS_KEY_ID", &self.s3.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.s3.secret_key);
        command
    }

    fn run(&self, words: &[&str]) -> Ran {
        Ran::of(self.command(words).output().unwrap())
    }

    /// A mirror in the folder `name`, with its LFS object. By S3: it is the same.
    fn mirror(&self, name: &str, layout: &str) {
        let target = format!("s3://bucket/{name}");
        let source = format!("{}/", self.source.url());
        let ran =
            self.run(&["--source", &source, "--target", &target, "--layout", layout, "--no-lfs"]);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let lfs = self.dir(name).join(lfs_key());
        std::fs::create_dir_all(lfs.parent().unwrap()).unwrap();
        std::fs::write(lfs, b"abc").unwrap();
    }

    /// The three ways to name a mirror.
    fn targets(&self, name: &str) -> [String; 3] {
        [
            format!("file://{}", self.dir(name).display()),
            format!("s3://bucket/{name}"),
            format!("{}/{name}", self.http.url()),
        ]
    }
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Ran {
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    fn json(&self) -> serde_json::Value {
        assert_eq!(self.out.matches('\n').count(), 1, "one line: {}", self.out);
        serde_json::from_str(&self.out).unwrap()
    }
}

fn lfs_key() -> String {
    format!("lfs/objects/ba/78/{LFS_OID}")
}

fn loose_key(oid: &str) -> String {
    format!("objects/{}/{}", &oid[..2], &oid[2..])
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(copied.expect("cp runs").success());
}

fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(file).unwrap();
    change(&mut bytes);
    // Loose objects and packs are read-only, as git has them.
    std::fs::remove_file(file).unwrap();
    std::fs::write(file, bytes).unwrap();
}

/// Damages a mirror in this folder; answers the key that must be named.
type Damage = Box<dyn Fn(&Path) -> String>;

#[test]
fn verify_names_each_kind_of_damage_on_a_directory_on_s3_and_over_plain_http() {
    let world = World::new();
    let oid = |name: &str| world.repo.rev(name).unwrap();
    let (tree, blob) = (loose_key(&oid("main~3^{tree}")), loose_key(&oid("main:noise")));
    let pack_file = |dir: &Path, ending: &str| {
        let found = files(dir, ending);
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    };
    let remove = |key: String| -> Damage {
        Box::new(move |dir| {
            std::fs::remove_file(dir.join(&key)).unwrap();
            key.clone()
        })
    };
    let at = |ending: &'static str, how: fn(&mut Vec<u8>)| -> Damage {
        Box::new(move |dir| {
            let key = pack_file(dir, ending);
            change(&dir.join(&key), how);
            // A pack and its index are blamed for each other.
            key.trim_end_matches(ending).to_owned()
        })
    };
    let flipped = blob.clone();
    // Layout, what is done, whether --quick sees it.
    let cases: Vec<(&str, &str, Damage, bool)> = vec![
        ("missing loose object", "loose", remove(tree), true),
        ("missing blob", "loose", remove(blob), true),
        (
            "flipped byte",
            "loose",
            Box::new(move |dir| {
                change(&dir.join(&flipped), |b| flip_in_noise(b));
                flipped.clone()
            }),
            false,
        ),
        (
            "ref to nothing",
            "loose",
            Box::new(|dir| {
                let line = format!("{}\trefs/heads/zzz\n", "ab".repeat(20));
                change(&dir.join("info/refs"), |bytes| {
                    let at = bytes.windows(10).position(|word| word == b"refs/tags/").unwrap() - 41;
                    bytes.splice(at..at, line.bytes()).for_each(drop);
                });
                loose_key(&"ab".repeat(20))
            }),
            true,
        ),
        ("missing LFS object", "loose", remove(lfs_key()), true),
        ("missing LFS object of packed pointers", "pack", remove(lfs_key()), true),
        ("truncated pack", "pack", at(".pack", |b| b.truncate(b.len() - 30)), true),
        ("flipped byte in the pack", "pack", at(".pack", |b| flip_in_noise(b)), false),
        ("flipped byte in the index", "pack", at(".idx", |b| b[1100] ^= 1), true),
        (
            "missing index",
            "pack",
            Box::new(move |dir| {
                let key = pack_file(dir, ".idx");
                std::fs::remove_file(dir.join(&key)).unwrap();
                key
            }),
            true,
        ),
    ];
    for layout in ["loose", "pack"] {
        world.mirror(layout, layout);
        for target in world.targets(layout) {
            for quick in [&[][..], &["--quick"]] {
                let ran = world.run(&[&["verify", "--target", &target], quick].concat());
                assert_eq!(ran.code, Some(0), "{layout} {target}: {}{}", ran.out, ran.err);
                assert!(ran.out.contains(": sound: 2 refs, "), "{}", ran.out);
            }
        }
    }
    for (number, (name, layout, damage, quickly)) in cases.iter().enumerate() {
        let mirror = format!("damaged{number}");
        copy(&world.dir(layout), &world.dir(&mirror));
        let key = damage(&world.dir(&mirror));
        for target in world.targets(&mirror) {
            let ran = world.run(&["verify", "--target", &target, "-q"]);
            let reported = format!("{name} {target}: {}{}", ran.out, ran.err);
            assert_eq!(ran.code, Some(1), "{reported}");
            assert!(ran.out.lines().any(|line| line.starts_with(&key)), "{reported}");
            let ran = world.run(&["verify", "--target", &target, "--quick", "--json"]);
            let reported = format!("quick {name} {target}: {}{}", ran.out, ran.err);
            assert_eq!(ran.code, Some(i32::from(*quickly)), "{reported}");
            let json = ran.json();
            let found = json["findings"].as_array().unwrap();
            let named = found.iter().any(|f| f["key"].as_str().unwrap().starts_with(&key));
            assert_eq!(named, *quickly, "{reported}");
            assert_eq!(json["status"], if *quickly { "faulty" } else { "sound" });
        }
    }
}

#[test]
fn json_of_verify_and_gc_has_these_fields_and_nothing_else_is_on_standard_output() {
    let world = World::new();
    world.mirror("m", "loose");
    let [file, s3, _] = world.targets("m");
    let fields =
        |ran: &Ran| -> Vec<String> { ran.json().as_object().unwrap().keys().cloned().collect() };
    let ran = world.run(&["verify", "--target", &s3, "--json", "-q"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert_eq!(
        fields(&ran),
        [
            "error",
            "exit_code",
            "finding_count",
            "findings",
            "lfs_objects",
            "notices",
            "objects",
            "packs",
            "quick",
            "refs",
            "requests",
            "seconds",
            "status",
            "target",
        ]
    );
    let ran = world.run(&["gc", "--target", &file, "--json", "-n", "--grace", "0"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert_eq!(
        fields(&ran),
        [
            "bundles",
            "bytes",
            "bytes_freed",
            "dry_run",
            "duplicates",
            "error",
            "exit_code",
            "history",
            "lfs",
            "lfs_forgotten",
            "locked_until",
            "loose",
            "pack_files",
            "reachable",
            "requests",
            "seconds",
            "status",
            "target",
            "temporary",
            "young",
        ]
    );
    for command in ["verify", "gc"] {
        let none = world.targets("none")[1].clone();
        let mut denied = world.command(&[command, "--target", &none, "--json"]);
        let ran = Ran::of(denied.env("AWS_SECRET_ACCESS_KEY", "wrong").output().unwrap());
        assert_eq!(ran.code, Some(12), "{}", ran.err);
        let json = ran.json();
        assert_eq!((&json["target"], &json["exit_code"]), (&none.into(), &12.into()));
        assert_eq!(json["status"], "failed");
        assert!(ran.err.starts_with("error: ") && json["error"].is_string());
    }
}

#[test]
fn verify_and_gc_end_with_5_if_the_store_is_away_and_with_12_if_it_denies() {
    let world = World::new();
    world.mirror("m", "loose");
    for command in ["verify", "gc"] {
        for (name, value, code) in
            [("AWS_ENDPOINT_URL", "http://127.0.0.1:9", 5), ("AWS_SECRET_ACCESS_KEY", "wrong", 12)]
        {
            let mut command = world.command(&[command, "--target", "s3://bucket/m"]);
            let output = command.env("AWS_MAX_ATTEMPTS", "2").env(name, value).output();
            let ran = Ran::of(output.unwrap());
            assert_eq!((ran.code, ran.out.as_str()), (Some(code), ""), "{}", ran.err);
        }
    }
    let away = world
        .command(&["verify", "--target", "http://127.0.0.1:9/m"])
        .env("AWS_MAX_ATTEMPTS", "2")
        .output();
    let ran = Ran::of(away.unwrap());
    assert_eq!(ran.code, Some(5), "{}", ran.err);
    assert!(ran.err.contains("(after 2 tries)"), "{}", ran.err);
}

#[test]
fn verify_and_gc_that_are_interrupted_end_with_the_signals_code() {
    let world = World::new();
    world.mirror("m", "loose");
    let slow = s3_server::Options { latency: Duration::from_millis(300), ..Default::default() };
    for (command, name, code) in [("verify", "INT", 130), ("gc", "TERM", 143)] {
        let s3 = S3Server::start_with(world.home.path().join("s3"), slow.clone());
        let words = [command, "--target", "s3://bucket/m", "--concurrency", "1", "--json"];
        let mut child =
            world.command(&words).env("AWS_ENDPOINT_URL", s3.endpoint()).spawn().unwrap();
        wait_until("it to read objects", || s3.requests() > 6);
        signal(&child, name);
        let status = wait(&mut child, Duration::from_millis(6500)).expect("it ends in time");
        assert_eq!(status.code(), Some(code), "{command}");
    }
}

/// Verifies a sound mirror through a server with these twists.
fn verify_through(missing: u16, canned: Vec<Canned>, quick: bool) -> Ran {
    let world = World::new();
    world.mirror("m", "loose");
    let server = StaticHttp::start_with(&world.home.path().join("s3/bucket"), missing, canned);
    let url = format!("{}/m", server.url());
    let words = ["verify", "--target", &url, "--quick"];
    let mut command = world.command(&words[..if quick { 4 } else { 3 }]);
    Ran::of(command.env("AWS_MAX_ATTEMPTS", "2").output().unwrap())
}

fn with_headers(mut answer: Canned, headers: &[(&str, &str)]) -> Canned {
    answer.headers.extend(headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
    answer
}

#[test]
fn a_read_url_whose_missing_keys_are_403_is_a_fault_that_says_what_policy_to_set() {
    // No pack: the list of packs is there, alternates are not; everything else is sound.
    for quick in [false, true] {
        let ran = verify_through(403, Vec::new(), quick);
        assert_eq!(ran.code, Some(1), "{}{}", ran.out, ran.err);
        assert!(ran.out.contains("a missing key is answered with 403"), "{}", ran.out);
        assert!(
            ran.out.contains("allow readers s3:ListBucket") && ran.out.contains("1 fault"),
            "{}",
            ran.out
        );
    }
    let ran = verify_through(500, Vec::new(), true);
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.contains("a missing key is answered with 500: git needs a 404"), "{}", ran.out);
}

#[test]
fn refs_that_not_everybody_may_read_are_a_fault_of_a_read_url() {
    for status in [401, 403] {
        let denied = Canned::new("info/refs", status, "application/xml", "<Error/>");
        let ran = verify_through(404, vec![denied], false);
        assert_eq!(ran.code, Some(1), "{}", ran.err);
        let wanted =
            format!("info/refs: the server responded with {status}: allow everyone s3:GetObject");
        assert!(ran.out.starts_with(&wanted), "{}", ran.out);
    }
    let missing = Canned::new("info/refs", 404, "text/plain", "no");
    let ran = verify_through(404, vec![missing], false);
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""));
    assert!(ran.out.starts_with("info/refs: missing\n"), "{}", ran.out);
}

#[test]
fn stale_refs_of_a_cache_are_a_fault_and_a_cache_that_asks_again_is_none() {
    let refs = "info/refs?service=git-upload-pack";
    let old = format!("{}\trefs/heads/main\n", "cd".repeat(20));
    let stale = Canned { times: 1, ..Canned::new(refs, 200, "text/plain", old) };
    let no_cache = ("Cache-Control", "no-cache");
    let ran = verify_through(404, vec![with_headers(stale.clone(), &[no_cache])], true);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.out.starts_with("info/refs: a cache returns an old copy"), "{}", ran.out);

    let aged = [("Age", "90"), ("Cache-Control", "max-age=3600")];
    let ran = verify_through(404, vec![with_headers(stale, &aged)], true);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.out.contains("it has been in a cache for 90 seconds"), "{}", ran.out);

    // The static server sends no Cache-Control: a warning, which changes no code.
    let ran = verify_through(404, Vec::new(), true);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert!(
        ran.err.starts_with("warning: info/refs is served without Cache-Control"),
        "{}",
        ran.err
    );
}

#[test]
fn objects_under_a_kms_key_are_told_with_what_to_do() {
    let kms = "<Error><Code>InvalidArgument</Code><Message>Requests specifying Server Side \
               Encryption with AWS KMS managed keys require AWS Signature Version 4.</Message></Error>";
    for key in ["info/refs", "HEAD"] {
        let ran = verify_through(404, vec![Canned::new(key, 400, "application/xml", kms)], false);
        assert_eq!(ran.code, Some(1), "{key}: {}{}", ran.out, ran.err);
        let reported = format!("{}{}", ran.out, ran.err);
        assert!(
            reported.contains("cannot be read anonymously; mirror with --sse AES256"),
            "{reported}"
        );
    }
}

#[test]
fn a_read_url_that_fails_once_is_asked_again() {
    for status in [500, 503, 429] {
        let busy = Canned { times: 1, ..Canned::new("info/refs", status, "text/plain", "busy") };
        let ran = verify_through(404, vec![busy.clone()], true);
        assert_eq!(ran.code, Some(0), "{status}: {}{}", ran.out, ran.err);
        let ran = verify_through(404, vec![Canned { times: 99, ..busy }], true);
        assert_eq!(ran.code, Some(5), "{status}: {}{}", ran.out, ran.err);
    }
}

/// Makes everything in the mirror's folder three days old.
fn age(dir: &Path) {
    for file in files(dir, "") {
        let aged = Command::new("touch").args(["-d", "3 days ago"]).arg(dir.join(file)).status();
        assert!(aged.expect("touch runs").success());
    }
}

/// Keys, but for those of news.
fn keys(dir: &Path) -> Vec<String> {
    let all = files(dir, "").into_iter();
    all.filter(|key| !key.starts_with("mirror_state/") && !key.contains(".bucket-")).collect()
}

fn gc_leaves_what_a_fresh_mirror_has(layout: &str, on_s3: bool) {
    let world = World::new();
    world.mirror("m", layout);
    for round in 0..3 {
        world.repo.git(&["update-ref", "refs/heads/main", "main~2"]);
        let content = format!("another way {round}\n");
        world.repo.commit("refs/heads/main", &[("c", content.as_bytes())]);
        world.repo.git(&["tag", "-f", "-a", "-m", "moved", "v1", "main"]);
        world.mirror("m", layout);
    }
    if layout == "pack" {
        // Packs that are listed stay: first the whole is taken as one.
        let source = format!("{}/", world.source.url());
        let words = ["--source", &source, "--target", "s3://bucket/m", "--layout=pack", "--full"];
        assert_eq!(world.run(&[&words[..], &["--no-lfs"]].concat()).code, Some(0));
    }
    // An LFS object that nothing points to.
    let unnamed = format!("lfs/objects/cc/cc/{}", "cc".repeat(32));
    std::fs::create_dir_all(world.dir("m/lfs/objects/cc/cc")).unwrap();
    std::fs::write(world.dir("m").join(&unnamed), b"x").unwrap();
    world.mirror("fresh", layout);
    let target = &world.targets("m")[usize::from(on_s3)];
    let (before, fresh) = (keys(&world.dir("m")), keys(&world.dir("fresh")));
    let garbage: Vec<&String> = before.iter().filter(|key| !fresh.contains(key)).collect();
    assert!(garbage.len() > 5, "{garbage:?}");

    let ran = world.run(&["gc", "--target", target]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.contains(" too new, ") && !ran.out.contains(" 0 too new"), "{}", ran.out);
    assert_eq!(keys(&world.dir("m")), before, "what is young stays");

    age(&world.dir("m"));
    let ran = world.run(&["gc", "--target", target, "-n"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let mut listed: Vec<&str> = ran.out.lines().collect();
    assert!(listed.pop().unwrap().contains("would delete"), "{}", ran.out);
    listed.sort_unstable();
    assert_eq!(listed, garbage, "-n lists what a fresh mirror would not have");
    assert_eq!(keys(&world.dir("m")), before, "-n deletes nothing");

    let ran = world.run(&["gc", "--target", target, "-q"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), "", ""));
    assert_eq!(keys(&world.dir("m")), fresh);
    for target in world.targets("m") {
        let ran = world.run(&["verify", "--target", &target]);
        assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    }
}

#[test]
fn gc_after_forced_pushes_leaves_a_loose_mirror_as_a_fresh_one_on_s3() {
    gc_leaves_what_a_fresh_mirror_has("loose", true);
}

#[test]
fn gc_after_forced_pushes_leaves_a_loose_mirror_as_a_fresh_one_in_a_directory() {
    gc_leaves_what_a_fresh_mirror_has("loose", false);
}

#[test]
fn gc_after_forced_pushes_and_a_full_run_leaves_a_packed_mirror_as_a_fresh_one_on_s3() {
    gc_leaves_what_a_fresh_mirror_has("pack", true);
}

#[test]
fn gc_of_a_mirror_that_is_not_whole_ends_with_1_and_names_what_lacks() {
    let world = World::new();
    world.mirror("m", "loose");
    let tree = loose_key(&world.repo.rev("main~1^{tree}").unwrap());
    std::fs::remove_file(world.dir("m").join(&tree)).unwrap();
    age(&world.dir("m"));
    let before = keys(&world.dir("m"));
    for target in &world.targets("m")[..2] {
        let ran = world.run(&["gc", "--target", target, "--grace", "0"]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{}", ran.err);
        assert!(ran.err.contains(&tree) && ran.err.contains("nothing was deleted"), "{}", ran.err);
    }
    assert_eq!(keys(&world.dir("m")), before);
}

#[test]
fn verify_repairs_on_s3_what_it_finds_and_says_what() {
    let world = World::new();
    let source = format!("{}/", world.source.url());
    for layout in ["loose", "pack"] {
        world.mirror(layout, layout);
        let key = match layout {
            "loose" => loose_key(&world.repo.rev("main:noise").unwrap()),
            _ => files(&world.dir(layout), ".idx").remove(0),
        };
        let file = world.dir(layout).join(&key);
        change(&file, |bytes| bytes.truncate(bytes.len() / 2));
        let target = format!("s3://bucket/{layout}");
        let ran = world.run(&["verify", "--target", &target]);
        assert_eq!(ran.code, Some(1), "{}", ran.out);
        let words = ["verify", "--repair", "--source", &source, "--target", &target];
        let ran = world.run(&words);
        assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
        assert!(ran.out.contains(&format!("{key}: repaired\n")), "{}", ran.out);
        assert!(ran.out.contains(": sound: "), "{}", ran.out);
        let ran = world.run(&[&words[..], &["--json"]].concat());
        assert_eq!(ran.json()["mended"], serde_json::json!([]));
    }
}

#[test]
fn several_mirrors_are_reported_each_and_end_with_3_if_one_is_faulty() {
    let world = World::new();
    world.mirror("good", "pack");
    world.mirror("bad", "loose");
    std::fs::remove_file(world.dir("bad").join("HEAD")).unwrap();
    let manifest = world.home.path().join("manifest");
    let line = |name: &str| format!("{} s3://bucket/{name}\n", world.source.url());
    std::fs::write(&manifest, line("good") + &line("bad")).unwrap();
    let (manifest, metrics) = (manifest.display().to_string(), world.home.path().join("m.prom"));
    let metrics_words = metrics.display().to_string();
    let words = ["--manifest", &manifest, "--jobs", "2", "--json"];
    let verify = ["verify", "--metrics-file", &metrics_words];
    let ran = world.run(&[&verify[..], &words[..]].concat());
    assert_eq!(ran.code, Some(3), "{}", ran.err);
    assert!(ran.err.ends_with("2 mirrors: 1 sound, 1 faulty\n"), "{}", ran.err);
    let reported = |name: &str| -> serde_json::Value {
        let target = format!("s3://bucket/{name}");
        let line = ran.out.lines().find(|line| line.contains(&target)).unwrap();
        serde_json::from_str(line).unwrap()
    };
    assert_eq!(
        (&reported("good")["status"], &reported("bad")["status"]),
        (&"sound".into(), &"faulty".into())
    );
    let text = std::fs::read_to_string(&metrics).unwrap();
    for line in [
        "mirror_git_to_s3_verify_findings{target=\"s3://bucket/bad\"} 1",
        "mirror_git_to_s3_verify_exit_code{target=\"s3://bucket/good\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{text}");
    }
    let ran = world.run(&[&["gc", "-n"][..], &words[..]].concat());
    // Without HEAD the refs are not those that the state describes.
    assert_eq!((ran.code, ran.out.lines().count()), (Some(3), 2), "{}", ran.err);
    assert!(ran.out.contains("\"exit_code\":13") && ran.out.contains("\"exit_code\":0"));
    assert!(ran.err.ends_with("2 mirrors: 1 ok, 1 failed\n"), "{}", ran.err);
    // If all is well, the sum is a result: not with --quiet, and not among JSON.
    std::fs::write(&manifest, line("good") + &line("good2")).unwrap();
    world.mirror("good2", "pack");
    let ran = world.run(&["verify", "--manifest", &manifest]);
    assert!(ran.out.ends_with("\n2 mirrors: 2 sound\n"), "{}", ran.out);
    for option in ["-q", "--json"] {
        let ran = world.run(&["verify", "--manifest", &manifest, option]);
        assert!(!(ran.out + &ran.err).contains("2 mirrors"), "{option}");
    }
}
