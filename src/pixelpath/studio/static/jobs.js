// What the page asks the run for: the form, jobs, and files to keep.
import { $, ask, element, say, state } from "./common.js";

// What the form asks for, without the kind of job.
export function asked() {
  const form = new FormData($("make"));
  const numbers = Object.fromEntries([...form].filter(([name]) => name.startsWith("column:")).map(([name, value]) => [name.slice(7), value]));
  const classes = form.get("classes") ? [form.get("classes")] : [], condition = form.get("condition");
  const chosen = { classes, numbers, cond_images: condition ? [condition] : [] };
  return { count: form.get("count"), seed: form.get("seed"), guidance: form.get("guidance"), nfe: form.get("nfe"), ...chosen };
}

// Events of a job may be here before its number is: they wait for it (see `heard`).
export const make = (job, run = state.run.number) => (state.asking = begun(job, run));

async function begun(job, run) {
  try {
    const { job: made } = await ask(`runs/${run}/make`, job);
    state.job = made;
    $("stop").hidden = false;
    say("Waiting for the run.");
    return made;
  } catch (error) { say(error.message, true); }
}

export async function save(path) { // a file by the browser's own download, or why there is none
  try {
    const answer = await fetch("/api/" + path);
    if (!answer.ok) throw new Error((await answer.json()).message);
    const name = /filename="(.*)"/.exec(answer.headers.get("content-disposition"))[1];
    const link = element("a", { href: URL.createObjectURL(await answer.blob()), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) { say(error.message, true); }
}
