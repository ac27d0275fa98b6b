//! `list` and `index` over a real S3 server: what operators and people see of a bucket of mirrors.

use crate::support::{git_http, local_git, program, s3_server};
use std::process::{Command, Output};

use git_http::GitHttp;
use local_git::Repo;
use program::program;
use s3_server::{Options, S3Server};

struct World {
    home: tempfile::TempDir,
    s3: S3Server,
}

impl World {
    /// A bucket with two mirrors and other things.
    fn new() -> World {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("s3/mirrors/notes")).unwrap();
        std::fs::write(home.path().join("s3/mirrors/notes/readme.txt"), "no mirror").unwrap();
        let options = Options { public_reads: true, ..Options::default() };
        let s3 = S3Server::start_with(home.path().join("s3"), options);
        let world = World { home, s3 };
        for (name, files) in [("alpha.git", 1), ("team/beta.git", 40)] {
            let repo = Repo::new();
            for number in 0..files {
                let text = format!("{name} {number}\n");
                repo.commit("refs/heads/main", &[("file", text.as_bytes())]);
            }
            let source = GitHttp::start(repo.path(), git_http::Options::default());
            let target = format!("s3://mirrors/{name}");
            let ran = world.run(&["--source", &format!("{}/", source.url()), "--target", &target]);
            assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
        }
        world
    }

    fn run(&self, words: &[&str]) -> Output {
        program(self.home.path())
            .args(words)
            .env("AWS_ENDPOINT_URL", self.s3.endpoint())
            .env("AWS_ACCESS_KEY_ID", &self.s3.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.s3.secret_key)
            .output()
            .unwrap()
    }

    fn out(&self, words: &[&str]) -> String {
        let ran = self.run(words);
        assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
        text(&ran.stdout)
    }

    fn list(&self, words: &[&str]) -> Vec<serde_json::Value> {
        let out = self.out(&[&["list", "--target", "s3://mirrors", "--json"], words].concat());
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

#[test]
fn list_finds_every_mirror_of_a_bucket_and_says_what_it_holds() {
    let world = World::new();
    let listed = world.list(&[]);
    let names: Vec<_> = listed.iter().map(|mirror| mirror["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["alpha.git", "team/beta.git"]);
    // What runs have recorded is what is there, loose and packed.
    let holds = |mirror: &serde_json::Value| {
        ["packs", "objects", "bytes", "lfs_objects", "lfs_bytes"].map(|name| mirror[name].clone())
    };
    for (mirror, counted) in listed.iter().zip(world.list(&["--count"])) {
        assert_eq!(holds(mirror), holds(&counted), "{mirror}\n{counted}");
        assert_eq!(mirror["checked_at"], serde_json::Value::Null);
        assert_eq!((&mirror["refs"], &mirror["lfs_missing"]), (&1.into(), &0.into()));
    }
    assert_eq!((&listed[0]["objects"], &listed[0]["packs"]), (&3.into(), &0.into()));
    assert_eq!((&listed[1]["objects"], &listed[1]["packs"]), (&120.into(), &1.into()));
    let url = format!("{}/mirrors/team/beta.git", world.s3.endpoint());
    assert_eq!(listed[1]["clone_url"], url.as_str());
    let cloned = Command::new("git")
        .args(["clone", "-q", &url, "beta"])
        .current_dir(world.home.path())
        .status();
    assert!(cloned.unwrap().success());

    world.out(&["verify", "--target", "s3://mirrors/alpha.git"]);
    assert_eq!(world.list(&[])[0]["findings"], 0);
    assert!(world.list(&[])[0]["checked_at"].is_string());
    let table = world.out(&["list", "--target", "s3://mirrors/team", "--public-url", "https://m"]);
    assert!(table.contains("beta.git  ") && table.contains("https://m/beta.git"), "{table}");
    // A state that is damaged is named, and the others are listed all the same.
    let state = world.home.path().join("s3/mirrors/alpha.git/mirror_state/state.json");
    std::fs::write(state, "not JSON").unwrap();
    let ran = world.run(&["list", "--target", "s3://mirrors"]);
    assert_eq!(ran.status.code(), Some(1));
    assert!(text(&ran.stdout).contains("team/beta.git"), "{}", text(&ran.stdout));
    assert!(
        text(&ran.stderr).contains("alpha.git: s3://mirrors/alpha.git/mirror_state/state.json")
    );
    // No such bucket.
    let ran = world.run(&["list", "--target", "s3://nowhere"]);
    assert_eq!(ran.status.code(), Some(1), "{}", text(&ran.stderr));
}

#[test]
fn index_is_rewritten_only_if_a_mirror_has_changed() {
    let world = World::new();
    let index = ["index", "--target", "s3://mirrors", "--public-url", "https://m.example"];
    assert!(world.out(&index).contains("index of 2 mirrors written"));
    let puts = || world.s3.seen().iter().filter(|line| line.starts_with("PUT ")).count();
    let before = puts();
    assert!(world.out(&index).contains("index of 2 mirrors unchanged"));
    assert_eq!(puts(), before);
    let written = |name: &str| {
        std::fs::read_to_string(world.home.path().join("s3/mirrors").join(name)).unwrap()
    };
    assert!(written("index.html").contains("git clone https://m.example/team/beta.git"));
    let json: serde_json::Value = serde_json::from_str(&written("index.json")).unwrap();
    assert_eq!(json["mirrors"][1]["name"], "team/beta.git");
    // A run brings it up to date.
    let repo = Repo::new();
    repo.commit("refs/heads/main", &[("a", b"a\n")]);
    let source = GitHttp::start(repo.path(), git_http::Options::default());
    let url = format!("{}/", source.url());
    let pair = ["--source", &url, "--target", "s3://mirrors/gamma"];
    let after = ["--index", "s3://mirrors", "--public-url", "https://m.example"];
    world.out(&[&pair[..], &after].concat());
    assert!(written("index.html").contains("git clone https://m.example/gamma"));
    // gc and verify leave it alone, and a mirror is no place for it.
    world.out(&["gc", "--target", "s3://mirrors/gamma", "--grace", "0"]);
    let ran = world.run(&["index", "--target", "s3://mirrors/gamma"]);
    assert_eq!(ran.status.code(), Some(13), "{}", text(&ran.stderr));
}

/// What a browser makes of the page, its script included.
fn browse(world: &World, query: &str) -> Option<String> {
    let chromium = ["chromium", "chromium-browser", "google-chrome"];
    let found = chromium.iter().find(|name| {
        Command::new(name).arg("--version").output().is_ok_and(|ran| ran.status.success())
    });
    let Some(chromium) = found else {
        eprintln!("SKIPPED: no chromium is installed");
        return None;
    };
    let url = format!("{}/mirrors/index.html{query}", world.s3.endpoint());
    let profile = world.home.path().join("chromium");
    let ran = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(["--virtual-time-budget=2000", "--dump-dom", &url])
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    Some(text(&ran.stdout))
}

#[test]
fn the_page_works_in_a_browser() {
    let world = World::new();
    world.out(&["index", "--target", "s3://mirrors"]);
    let Some(page) = browse(&world, "") else { return };
    // The script has run: ages instead of times, and a search field.
    assert!(page.contains(">just now</time>"), "{page}");
    assert!(page.contains("id=\"count\">2 mirrors<"), "{page}");
    assert!(!page.contains("<li data-name=\"alpha.git\" hidden"), "{page}");
    let found = browse(&world, "?q=BETA%20team").unwrap();
    assert!(found.contains("<li data-name=\"alpha.git\" hidden"), "{found}");
    assert!(found.contains("<li data-name=\"team/beta.git\">"), "{found}");
    assert!(found.contains("id=\"count\">1 of 2 mirrors<"), "{found}");
}
