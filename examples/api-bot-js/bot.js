// Reads issues from an API and posts a report, with plain fetch. Not trusted by anyone: it never has the token that the API insists on,
// and what it may request is in manifest.toml.
//
// Its input is the API's origin. With `probe` after it, it tries what nobody granted it and says what came of that.

/** The interface `claviger:agent/run`. Its error is a string: anything else that is thrown ends the bot as a fault. */
export const run = {
  async run(input) {
    const [origin = "https://api.example.com", ...words] = input.split(/\s+/).filter(Boolean);
    try {
      return await (words.includes("probe") ? probe(origin) : report(origin));
    } catch (why) {
      throw String(why);
    }
  },
};

/** Counts the open issues and posts what it found. */
async function report(origin) {
  const issues = await (await fetch(`${origin}/issues?state=open`)).json();
  const titles = issues.map((issue) => issue.title);
  const answer = await post(`${origin}/reports`, "application/json", JSON.stringify({ open: titles.length, titles }));
  return `reported ${titles.length} open issues: ${answer.status}`;
}

/** What a malicious agent would do next. Each attempt gives one line. */
async function probe(origin) {
  const attempts = [
    ["another path", () => fetch(`${origin}/admin`)],
    ["another method", () => fetch(`${origin}/issues`, { method: "DELETE" })],
    ["another host", () => fetch("https://evil.example/issues")],
    ["the cloud's metadata", () => fetch("http://169.254.169.254/latest/meta-data/")],
    ["without TLS", () => fetch(`${origin.replace("https:", "http:")}/issues`)],
    // Its URLs are WHATWG ones: these two leave the bot as `/admin`.
    ["dots in the path", () => fetch(`${origin}/issues/../admin`)],
    ["encoded dots", () => fetch(`${origin}/issues/%2e%2e/admin`)],
    ["a query of its own", () => fetch(`${origin}/issues?token=all`)],
    ["a token of its own", () => fetch(`${origin}/issues`, { headers: { authorization: "Bearer guess" } })],
    ["another content type", () => post(`${origin}/reports`, "text/html", "<script>")],
    ["where a redirect leads", () => followed(`${origin}/moved`)],
    // Last: an API that repeats what it was sent, token included.
    ["an echo of the token", async () => (await fetch(`${origin}/debug`)).text()],
  ];
  const said = [];
  for (const [what, attempt] of attempts) {
    said.push(`${what}: ${await tried(attempt)}`);
  }
  return said.join("\n");
}

function post(url, kind, body) {
  return fetch(url, { method: "POST", headers: { "content-type": kind }, body });
}

/** Goes where an answer says, as a client that follows redirects would. */
async function followed(url) {
  const answer = await fetch(url, { redirect: "manual" });
  return fetch(answer.headers.get("location"));
}

async function tried(attempt) {
  try {
    const answer = await attempt();
    return `SUCCEEDED with ${answer.status ?? answer}, and must not have`;
  } catch (why) {
    return `refused, ${why}`;
  }
}
