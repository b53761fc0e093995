// Shows the instances of the hub.
const fragment = new URLSearchParams(location.hash.slice(1));
if (fragment.has("token")) {
  sessionStorage.setItem("recado.key", fragment.get("token"));
  history.replaceState(null, "", location.pathname + location.search);
}
const say = (text) => { document.getElementById("state").textContent = text; };
const key = sessionStorage.getItem("recado.key");
if (key) {
  const answer = await fetch("api/admin/instances", { headers: { authorization: `Bearer ${key}` } });
  const body = await answer.json();
  say(answer.ok ? `${body.instances.length} instances` : body.detail);
  for (const instance of body.instances ?? []) {
    const line = document.createElement("li");
    line.textContent = `${instance.instance} at ${instance.address}, version ${instance.version}`;
    document.getElementById("instances").append(line);
  }
} else {
  say("Open this page by the link that the command recado admin prints.");
}
