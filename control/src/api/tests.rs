use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream as Client;
use std::process::Command;

use rustix::time::{ClockId, clock_gettime};

use super::*;

/// Set where the test runs once more, in a process that may open few files.
const FEW_FILES: &str = "WEFT_TEST_FEW_FILES";
const WATCHED: Duration = Duration::from_millis(400);

fn socket(purpose: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("weft-api-{}-{purpose}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

fn run<T>(body: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body)
}

/// Lets conversations go on for a while, or until a question comes.
async fn serve(conversations: &mut Conversations, time: Duration) -> Option<Question> {
    tokio::time::timeout(time, conversations.next()).await.ok()
}

#[test]
fn an_oversized_request_is_told_so_once() {
    let directory = socket("oversized");
    run(async {
        let mut conversations = Conversations::new(&listen(&directory).unwrap()).unwrap();
        let path = directory.join(SOCKET_NAME);
        let client = std::thread::spawn(move || {
            let mut stream = Client::connect(path).unwrap();
            // The agent hangs up before it has read all of it.
            let _ = stream.write_all(&vec![b'x'; 3 * MAX_REQUEST_BYTES as usize]);
            let mut read = BufReader::new(stream);
            let (mut line, mut rest) = (String::new(), Vec::new());
            read.read_line(&mut line).unwrap();
            let _ = read.read_to_end(&mut rest);
            (line, rest)
        });
        while !client.is_finished() {
            assert!(serve(&mut conversations, Duration::from_millis(20)).await.is_none());
        }
        let (line, rest) = client.join().unwrap();
        assert!(line.contains(&format!("a request has {MAX_REQUEST_BYTES} bytes at most")), "{line}");
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    });
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn conversations_are_limited_and_the_next_one_waits() {
    let directory = socket("places");
    run(async {
        let mut conversations = Conversations::new(&listen(&directory).unwrap()).unwrap();
        let connect = || {
            let mut stream = Client::connect(directory.join(SOCKET_NAME)).unwrap();
            stream.write_all(b"{\"api\":").unwrap();
            stream
        };
        let mut idle: Vec<_> = (0..CONVERSATIONS).map(|_| connect()).collect();
        let mut late = connect();
        late.write_all(b"1,\"query\":\"status\"}\n").unwrap();
        assert!(serve(&mut conversations, WATCHED).await.is_none(), "the last one was let in");
        assert_eq!(conversations.places.available_permits(), 0);
        idle.pop();
        let question = serve(&mut conversations, PATIENCE).await.unwrap();
        assert_eq!(question.query, Query::Status);
    });
    std::fs::remove_dir_all(directory).unwrap();
}

/// Asks for a pod, as the plugin does.
fn attach(number: usize) -> Vec<u8> {
    let pod = weft_api::PodInterface {
        network: "net".to_owned(),
        container: format!("c{number}"),
        interface: "eth0".to_owned(),
    };
    let attach = weft_api::Attach {
        pod,
        netns: "/run/netns/a".to_owned(),
        label: None,
        vni: None,
        mac: None,
        mtu: None,
        addresses: weft_api::AddressSource::Node { requested: Vec::new() },
        default_route: None,
        routes: Vec::new(),
        wait: weft_api::Wait::Store,
        wait_timeout_ms: None,
    };
    let request = Request { api: API_VERSION, query: Query::Attach(Box::new(attach)) };
    let mut line = serde_json::to_vec(&request).unwrap();
    line.push(b'\n');
    line
}

#[test]
fn pods_that_wait_for_the_store_keep_nobody_out_and_are_limited_themselves() {
    let directory = socket("waiting");
    run(async {
        let mut conversations = Conversations::new(&listen(&directory).unwrap()).unwrap();
        let ask = |request: &[u8]| {
            let mut stream = Client::connect(directory.join(SOCKET_NAME)).unwrap();
            stream.write_all(request).unwrap();
            stream
        };
        // None of them is answered.
        let (mut clients, mut waiting) = (Vec::new(), Vec::new());
        for number in 0..WAITING_ATTACHMENTS {
            clients.push(ask(&attach(number)));
            waiting.push(serve(&mut conversations, PATIENCE).await.unwrap());
        }
        let _status = ask(b"{\"api\":1,\"query\":\"status\"}\n");
        assert_eq!(serve(&mut conversations, PATIENCE).await.unwrap().query, Query::Status);
        // One more is told to come later.
        let refused = ask(&attach(WAITING_ATTACHMENTS));
        assert!(serve(&mut conversations, WATCHED).await.is_none());
        let mut line = String::new();
        BufReader::new(refused).read_line(&mut line).unwrap();
        assert!(line.contains("later") && line.contains("wait for the store"), "{line}");
        // Who got his answer may go on, and leaves room.
        waiting.remove(0).take().2.give(Reply::Done);
        clients[0].write_all(b"{\"api\":1,\"query\":\"ports\"}\n").unwrap();
        assert_eq!(serve(&mut conversations, PATIENCE).await.unwrap().query, Query::Ports);
        clients.push(ask(&attach(WAITING_ATTACHMENTS)));
        assert!(matches!(serve(&mut conversations, PATIENCE).await.unwrap().query, Query::Attach(_)));
    });
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_refused_client_costs_no_processor_time() {
    let Some(_) = std::env::var_os(FEW_FILES) else {
        let this = std::thread::current().name().unwrap().to_owned();
        let again = r#"ulimit -n 24; exec "$@""#;
        let mut command = Command::new("sh");
        command.args(["-c", again, "sh"]).arg(std::env::current_exe().unwrap()).args(["--exact", &this, "--nocapture"]);
        let output = command.env(FEW_FILES, "1").output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("1 passed"), "{told}");
        return;
    };
    let directory = socket("files");
    run(async {
        let mut conversations = Conversations::new(&listen(&directory).unwrap()).unwrap();
        // The listener's queue holds a client that cannot be accepted.
        let mut waiting = Client::connect(directory.join(SOCKET_NAME)).unwrap();
        waiting.write_all(b"{\"api\":1,\"query\":\"status\"}\n").unwrap();
        let files: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        #[expect(clippy::disallowed_methods, reason = "counts processor time")]
        let used = || Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap();
        let before = used();
        assert!(serve(&mut conversations, WATCHED).await.is_none());
        let spent = used() - before;
        assert!(spent < WATCHED / 4, "{spent:?} of {WATCHED:?}");
        drop(files);
        assert!(serve(&mut conversations, PATIENCE).await.is_some(), "welcomed when there are descriptors again");
    });
    std::fs::remove_dir_all(directory).unwrap();
}
