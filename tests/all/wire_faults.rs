//! The program with real sockets on both sides and a proxy between that does harm: faults of the
//! store cost time only, a store that stays away ends the run in time, several runs at once lose
//! nothing, and what a cut run has stored is not sent again. Both layouts.

use crate::support::{fault_proxy, git_http, local_git, program, s3_server};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fault_proxy::{FAULTS, Fate, Head, Proxy, faults};
use git_http::{GitHttp, StaticHttp};
use local_git::{Repo, all_objects, all_refs, git, run};
use program::{files, program};
use s3_server::S3Server;

const LAYOUTS: [&str; 2] = ["loose", "pack"];

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

/// A commit with some small files and one that goes in parts.
fn commit(repo: &Repo, round: u64) {
    let small = (0..20).map(|number| (format!("file-{number}"), noise(round * 100 + number, 2000)));
    let large = ("large".to_owned(), noise(round, 1 << 20));
    // One process, where one for each blob would take most of the time.
    let mut stream = format!(
        "commit refs/heads/main\ncommitter A <a@example.com> {} +0000\ndata 1\n.\n",
        1_700_000_000 + round
    )
    .into_bytes();
    if let Some(parent) = repo.rev("main") {
        stream.extend_from_slice(format!("from {parent}\n").as_bytes());
    }
    for (name, blob) in small.chain([large]) {
        stream.extend_from_slice(format!("M 644 inline {name}\ndata {}\n", blob.len()).as_bytes());
        stream.extend_from_slice(&blob);
        stream.push(b'\n');
    }
    run(git(repo.path()).args(["fast-import", "--quiet"]), &stream);
    repo.git(&["tag", "-f", "-a", "-m", "a tag", "latest", "main"]);
}

/// A source, a store, and where the program's files are.
struct World {
    repo: Repo,
    source: GitHttp,
    home: tempfile::TempDir,
    s3: S3Server,
}

/// How a run ended; its line of JSON.
struct Ran {
    code: Option<i32>,
    json: serde_json::Value,
    err: String,
}

impl Ran {
    #[track_caller]
    fn assert_code(&self, code: i32) {
        assert_eq!(self.code, Some(code), "{}\n{}", self.json, self.err);
    }

    fn number(&self, name: &str) -> u64 {
        self.json[name].as_u64().unwrap_or_else(|| panic!("{name}: {}", self.json))
    }
}

impl World {
    fn new(commits: u64) -> World {
        let repo = Repo::new();
        (0..commits).for_each(|round| commit(&repo, round));
        let source = GitHttp::start(repo.path(), git_http::Options::default());
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("bucket")).unwrap();
        let s3 = S3Server::start(home.path());
        World { repo, source, home, s3 }
    }

    fn command(&self, layout: &str, endpoint: &str) -> Command {
        self.command_from(&self.source.url(), layout, endpoint)
    }

    fn command_from(&self, source: &str, layout: &str, endpoint: &str) -> Command {
        let mut command = program(self.home.path());
        command
            .args(["--source", &format!("{source}/"), "--target", "s3://bucket/m"])
            .args(["--layout", layout, "--memory", "8", "--json", "--endpoint-url", endpoint])
            .env("AWS_ACCESS_KEY_ID", &self.s3.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.s3.secret_key);
        command
    }

    fn run(&self, layout: &str, endpoint: &str) -> Ran {
        ran(&mut self.command(layout, endpoint))
    }

    fn mirror(&self) -> PathBuf {
        self.home.path().join("bucket/m")
    }

    /// A clone over plain HTTP is the source, and nothing temporary is left.
    fn assert_mirrored(&self) {
        self.assert_cloned();
        self.assert_clean();
    }

    fn assert_cloned(&self) {
        let clone = tempfile::tempdir().unwrap();
        let server = StaticHttp::start(&self.mirror());
        let url = format!("{}/", server.url());
        run(git(clone.path()).args(["clone", "-q", "--mirror", &url, "c"]), b"");
        let clone = clone.path().join("c");
        run(git(&clone).args(["fsck", "--full", "--strict"]), b"");
        assert_eq!(all_refs(&clone), all_refs(self.repo.path()));
        assert_eq!(all_objects(&clone), all_objects(self.repo.path()));
    }

    fn assert_clean(&self) {
        for part in ["mirror_tmp", "upload"] {
            assert_eq!(files(self.home.path(), part), Vec::<String>::new());
        }
    }

    fn assert_nothing_published(&self) {
        for name in ["info/refs", "HEAD"] {
            assert!(!self.mirror().join(name).exists(), "{name}");
        }
    }
}

fn ran(command: &mut Command) -> Ran {
    let out = command.output().expect("the program runs");
    let text = String::from_utf8(out.stdout).expect("UTF-8");
    Ran {
        code: out.status.code(),
        json: serde_json::from_str(&text).unwrap_or_default(),
        err: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

// ---- faults that pass ---------------------------------------------------------------------------

/// Runs over and over with new commits between; `percent` of all store requests fail.
fn some_requests_fail(layout: &str, percent: u8, rounds: u64) {
    let world = World::new(4);
    let plain = World::new(4);
    let proxy = Proxy::start(&world.s3.endpoint(), faults(percent, 7));
    let counting = Proxy::start(&plain.s3.endpoint(), |_, _| Fate::Pass);
    let mut met = 0;
    for round in 0..rounds {
        let (before, begun) = ((proxy.requests(), proxy.faults()), Instant::now());
        world.run(layout, &proxy.url).assert_code(0);
        world.assert_cloned();
        // A fault costs a repeated request, and one more where the answer may have been lost; where it
        // was of the beginning of an upload, the next run lists what is left.
        let cheap = counting.requests();
        plain.run(layout, &counting.url).assert_code(0);
        let needed = counting.requests() - cheap;
        let (sent, faults) = (proxy.requests() - before.0, proxy.faults() - before.1);
        assert!(
            sent >= needed && sent <= needed + 2 * faults + 2 * met.min(1),
            "{sent} of {needed}, {faults} faults"
        );
        assert!(begun.elapsed() < Duration::from_secs(120));
        met += faults;
        commit(&world.repo, 100 + round);
        commit(&plain.repo, 100 + round);
    }
    assert!(met >= 5, "only {met} faults: the test shows nothing");
    // Where the answer to the beginning of an upload was lost nobody knows it but the next run.
    world.run(layout, &world.s3.endpoint()).assert_code(0);
    world.assert_mirrored();
}

#[test]
fn three_percent_of_store_requests_failing_cost_time_only() {
    some_requests_fail("loose", 3, 4);
}

#[test]
fn many_store_requests_failing_cost_a_pack_mirror_time_only() {
    // There are so few that three percent would be none.
    some_requests_fail("pack", 15, 6);
}

#[test]
fn connections_that_were_closed_meanwhile_are_no_error() {
    for layout in LAYOUTS {
        let world = World::new(1);
        let store = Proxy::start(&world.s3.endpoint(), |_, _| Fate::CloseBehind);
        let source = Proxy::start(&world.source.url(), |_, _| Fate::CloseBehind);
        let ran = ran(&mut world.command_from(&source.url, layout, &store.url));
        ran.assert_code(0);
        world.assert_mirrored();
        // Greeting, refs, pack; a request that met a closed connection is one more.
        let sent = ran.number("source_requests");
        assert!((3..=5).contains(&sent), "{sent} requests to the source");
        let plain = World::new(1);
        let needed = plain.run(layout, &plain.s3.endpoint()).number("store_requests");
        assert!(ran.number("store_requests") <= 2 * needed);
    }
}

// ---- faults that stay ---------------------------------------------------------------------------

#[test]
fn store_that_always_fails_ends_the_run_in_time_with_exit_code_5_and_nothing_published() {
    for fate in FAULTS {
        for layout in LAYOUTS {
            let world = World::new(1);
            let proxy = Proxy::start(&world.s3.endpoint(), move |_, _| fate);
            let begun = Instant::now();
            let ran = ran(world.command(layout, &proxy.url).env("AWS_MAX_ATTEMPTS", "3"));
            ran.assert_code(5);
            assert_eq!(proxy.requests(), 3, "{fate:?}");
            assert!(begun.elapsed() < Duration::from_secs(30), "{fate:?}");
            world.assert_nothing_published();
        }
    }
}

#[test]
fn store_that_stops_working_at_any_moment_publishes_nothing_and_the_next_run_goes_well() {
    for layout in LAYOUTS {
        let world = World::new(2);
        let mut ended = 0;
        for after in [2, 4, 5, 6, 7, 8, 9, 10, 15, 25, 40] {
            let down = move |_: &Head, number: usize| match number < after {
                true => Fate::Pass,
                false => FAULTS[after % 3],
            };
            let proxy = Proxy::start(&world.s3.endpoint(), down);
            let ran = ran(world.command(layout, &proxy.url).env("AWS_MAX_ATTEMPTS", "2"));
            if ran.code == Some(0) {
                break;
            }
            ran.assert_code(5);
            assert!(!world.mirror().join("info/refs").exists(), "{layout}, after {after}");
            ended += 1;
        }
        assert!(ended >= 6, "{layout}: {ended}");
        world.run(layout, &world.s3.endpoint()).assert_code(0);
        world.assert_mirrored();
    }
}

#[test]
fn interrupted_first_run_is_gone_on_with_and_nothing_is_sent_twice() {
    let world = World::new(4);
    let down = |head: &Head, number: usize| match number < 40 || !head.is("PUT", "/objects/") {
        true => Fate::Pass,
        false => Fate::Status(503, None),
    };
    let proxy = Proxy::start(&world.s3.endpoint(), down);
    ran(world.command("loose", &proxy.url).env("AWS_MAX_ATTEMPTS", "1")).assert_code(5);
    world.assert_nothing_published();
    let stored = files(&world.mirror(), "objects/").len();
    let all = world.repo.objects().len();
    assert!(stored > 20 && stored < all, "{stored} of {all}");
    let puts = Arc::new(AtomicUsize::new(0));
    let count = puts.clone();
    let proxy = Proxy::start(&world.s3.endpoint(), move |head, _| {
        // Objects of over one part are copied to their names.
        let is_object = head.is("PUT", "/m/objects/") && !head.line.contains("/info/");
        count.fetch_add(usize::from(is_object), Ordering::SeqCst);
        Fate::Pass
    });
    let ran = world.run("loose", &proxy.url);
    ran.assert_code(0);
    assert_eq!(puts.load(Ordering::SeqCst), all - stored);
    assert_eq!(ran.number("objects_written") as usize, all - stored);
    world.assert_mirrored();
}

#[test]
fn lost_files_are_restored_by_a_full_run() {
    for (layout, lost) in [("loose", "objects/"), ("pack", ".pack"), ("pack", ".idx")] {
        let world = World::new(2);
        world.run(layout, &world.s3.endpoint()).assert_code(0);
        let found = files(&world.mirror(), lost);
        std::fs::remove_file(world.mirror().join(&found[0])).unwrap();
        let ran = ran(world.command(layout, &world.s3.endpoint()).arg("--full"));
        ran.assert_code(0);
        assert!(world.mirror().join(&found[0]).exists() || layout == "pack", "{}", found[0]);
        world.assert_mirrored();
    }
}

// ---- several at once ----------------------------------------------------------------------------

/// While the first run is about to send `method` `part`, another one publishes something newer.
fn race(layout: &str, hidden: &[&'static str], at: (&'static str, &'static str), published: bool) {
    let world = World::new(1);
    if published {
        world.run(layout, &world.s3.endpoint()).assert_code(0);
        commit(&world.repo, 1);
    }
    let other = Mutex::new(world.command(layout, &world.s3.endpoint()));
    let (path, once) = (world.repo.path().to_owned(), AtomicBool::new(false));
    let proxy = Proxy::hiding(&world.s3.endpoint(), hidden, move |head, _| {
        if head.is(at.0, at.1) && !once.swap(true, Ordering::SeqCst) {
            let mut newer = git(&path);
            newer.args(["update-ref", "refs/heads/newer", "refs/heads/main"]);
            run(&mut newer, b"");
            ran(&mut other.lock().unwrap()).assert_code(0);
        }
        Fate::Pass
    });
    let loser = world.run(layout, &proxy.url);
    loser.assert_code(11);
    assert!(loser.err.contains("another run published"), "{}", loser.err);
    // What the winner published is what readers see.
    world.assert_mirrored();
    commit(&world.repo, 2);
    world.run(layout, &proxy.url).assert_code(0);
    world.assert_mirrored();
}

#[test]
fn who_loses_a_race_is_told_with_11_by_a_store_that_enforces_conditions() {
    for layout in LAYOUTS {
        for published in [false, true] {
            race(layout, &[], ("PUT", "/m/info/refs"), published);
        }
    }
}

#[test]
fn who_loses_a_race_is_told_with_11_though_the_store_ignores_conditions() {
    let hidden = ["if-match", "if-none-match"];
    race("loose", &hidden, ("PUT", "/m/objects/"), true);
    race("loose", &hidden, ("PUT", "/m/objects/"), false);
    race("pack", &hidden, ("PUT", ".idx"), true);
    race("pack", &hidden, ("PUT", ".idx"), false);
}

#[test]
fn temporary_keys_of_a_live_run_are_not_cleared_away_by_another() {
    for layout in LAYOUTS {
        let world = World::new(1);
        // More than a part.
        let mut noise = vec![0; 9 << 20];
        fastrand::Rng::with_seed(5).fill(&mut noise);
        world.repo.commit("refs/heads/main", &[("noise", &noise)]);
        let other = Mutex::new(world.command(layout, &world.s3.endpoint()));
        let once = AtomicBool::new(false);
        // An upload is open, and a part of it on its way.
        let proxy = Proxy::start(&world.s3.endpoint(), move |head, _| {
            if head.is("PUT", "partNumber=") && !once.swap(true, Ordering::SeqCst) {
                ran(&mut other.lock().unwrap()).assert_code(0);
            }
            Fate::Pass
        });
        // It gets as far as publishing: its upload was not aborted.
        world.run(layout, &proxy.url).assert_code(11);
        world.assert_mirrored();
    }
}

// ---- guards and dry runs ------------------------------------------------------------------------

/// Everything below a folder: path, length, time.
fn listing(dir: &Path) -> Vec<(String, u64, std::time::SystemTime)> {
    let about = |path: String| {
        let about = std::fs::metadata(dir.join(&path)).unwrap();
        (path, about.len(), about.modified().unwrap())
    };
    files(dir, "").into_iter().map(about).collect()
}

#[test]
fn source_that_lost_its_refs_is_refused_with_13_until_forced() {
    for layout in LAYOUTS {
        let world = World::new(1);
        (0..11).for_each(|n| drop(world.repo.git(&["tag", &format!("t{n}"), "main"])));
        world.run(layout, &world.s3.endpoint()).assert_code(0);
        // Of thirteen refs six are fewer than half; and then none.
        let lose = |names: &[String]| {
            for name in names {
                world.repo.git(&["update-ref", "-d", name]);
            }
            let before = listing(&world.mirror());
            let refused = world.run(layout, &world.s3.endpoint());
            refused.assert_code(13);
            assert!(refused.err.contains("--force"), "{}", refused.err);
            assert_eq!(listing(&world.mirror()), before);
            let forced = ran(world.command(layout, &world.s3.endpoint()).arg("--force"));
            forced.assert_code(0);
            assert_eq!(forced.number("refs_deleted") as usize, names.len());
            world.assert_clean();
        };
        lose(&(0..7).map(|n| format!("refs/tags/t{n}")).collect::<Vec<_>>());
        world.assert_mirrored();
        let left = world.repo.git(&["for-each-ref", "--format=%(refname)"]);
        lose(&left.lines().map(str::to_owned).collect::<Vec<_>>());
    }
}

#[test]
fn dry_run_says_what_is_added_moved_and_deleted_and_writes_nothing_at_all() {
    for layout in LAYOUTS {
        let world = World::new(1);
        let dir = world.home.path().join("dir");
        let on_disk = |words: &[&str]| {
            let mut command = program(world.home.path());
            command.args(["--source", &format!("{}/", world.source.url())]);
            command.args(["--target", &format!("file://{}", dir.display()), "--layout", layout]);
            command.args(words).output().unwrap()
        };
        // A mirror that does not exist yet is not made.
        assert!(on_disk(&["-n"]).status.success());
        assert!(!dir.exists());
        assert!(on_disk(&[]).status.success());
        world.run(layout, &world.s3.endpoint()).assert_code(0);
        world.repo.git(&["branch", "new", "main"]);
        world.repo.git(&["tag", "-d", "latest"]);
        let old = world.repo.rev("main").unwrap();
        commit(&world.repo, 5);
        world.repo.git(&["tag", "-d", "latest"]);
        let (before, seen) = (listing(world.home.path()), world.s3.seen().len());
        let out = on_disk(&["-n"]);
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(text.contains("would add 1 ref, move 1, delete 1"), "{text}");
        let new = world.repo.rev("main").unwrap();
        for line in [
            format!("  + refs/heads/new {old}\n"),
            format!("  ~ refs/heads/main {old} -> {new}\n"),
            "  - refs/tags/latest ".to_owned(),
        ] {
            assert!(text.contains(&line), "{line}: {text}");
        }
        let dry = ran(world.command(layout, &world.s3.endpoint()).arg("--dry-run"));
        dry.assert_code(0);
        let counts = ["refs_added", "refs_updated", "refs_deleted", "store_requests"];
        assert_eq!(counts.map(|name| dry.number(name)), [1, 1, 1, 3]);
        let requests = world.s3.seen().split_off(seen);
        assert!(requests.iter().all(|line| line.starts_with("GET ")), "{requests:?}");
        assert_eq!(listing(world.home.path()), before);
    }
}
