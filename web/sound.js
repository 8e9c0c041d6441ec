// @ts-check
/** Everything audible: the ring, the key tones and the voice. Without sound hardware all of it is silent. */

const RING_HERTZ = [440, 480];
const RING_BURSTS = [0, 0.6]; // seconds into each cycle
const RING_CYCLE_MS = 3000;
const DTMF_ROWS = [697, 770, 852, 941];
const DTMF_COLUMNS = [1209, 1336, 1477];
const DTMF_KEYS = "123456789*0#";
const MAX_WAITING = 2;

/** @type {AudioContext | undefined} */
let context;
/** @type {GainNode} */
let speaker;
let isMuted = false;
let ringTimer = 0;
/** @type {string[]} */
const waiting = [];
/** @type {HTMLAudioElement | undefined} */
let playing;

/** Browsers let a page sound only from a user's gesture on. */
export function unlock() {
  if (!context) {
    context = new AudioContext();
    speaker = context.createGain();
    speaker.gain.value = isMuted ? 0 : 1;
    speaker.connect(context.destination);
  }
  if (context.state === "suspended") context.resume().catch(() => {});
}

/** @param {boolean} muted */
export function mute(muted) {
  isMuted = muted;
  if (context) speaker.gain.value = muted ? 0 : 1;
  if (muted) hush();
}

export function startRinging() {
  if (ringTimer) return;
  const ring = () => RING_BURSTS.forEach((start) => sound(RING_HERTZ, start, 0.4, 0.08));
  ring();
  ringTimer = setInterval(ring, RING_CYCLE_MS);
}

export function stopRinging() {
  clearInterval(ringTimer);
  ringTimer = 0;
}

/** @param {string} key */
export function pressTone(key) {
  const place = DTMF_KEYS.indexOf(key);
  sound([DTMF_ROWS[Math.floor(place / 3)], DTMF_COLUMNS[place % 3]], 0, 0.15, 0.1);
}

/** @param {number[]} hertz @param {number} start @param {number} seconds @param {number} volume */
function sound(hertz, start, seconds, volume) {
  if (context?.state !== "running") return;
  const from = context.currentTime + start;
  const gain = context.createGain();
  gain.connect(speaker);
  // Ramps, because a tone that starts or stops at full volume clicks.
  gain.gain.setValueAtTime(0, from);
  gain.gain.linearRampToValueAtTime(volume, from + 0.02);
  gain.gain.setValueAtTime(volume, from + seconds - 0.03);
  gain.gain.linearRampToValueAtTime(0, from + seconds);
  for (const frequency of hertz) {
    const tone = new OscillatorNode(context, { frequency });
    tone.connect(gain);
    tone.start(from);
    tone.stop(from + seconds);
  }
}

/** Say a text after those before it; a voice that falls behind skips. @param {{text: string, language: string, audio_url: string | null}} utterance */
export function say({ text, language, audio_url }) {
  if (isMuted || !navigator.userActivation?.hasBeenActive) return;
  if (audio_url) playInTurn(audio_url);
  else speakInBrowser(text, language);
}

/** Play a file after what is being said. @param {string} url */
export function play(url) {
  if (!isMuted && navigator.userActivation?.hasBeenActive) playInTurn(url);
}

/** Stop the voice and forget what it was still to say. */
export function hush() {
  waiting.length = 0;
  playing?.pause();
  window.speechSynthesis?.cancel();
}

/** @param {string} url */
async function playInTurn(url) {
  if (waiting.push(url) > MAX_WAITING) waiting.shift();
  if (playing) return;
  while (waiting.length) {
    playing = new Audio(waiting.shift());
    await finished(playing);
  }
  playing = undefined;
}

/** @param {HTMLAudioElement} audio */
function finished(audio) {
  return new Promise((done) => {
    audio.onended = audio.onerror = audio.onpause = done;
    audio.play().catch(done);
  });
}

/** @param {string} text @param {string} language */
function speakInBrowser(text, language) {
  const voice = window.speechSynthesis;
  if (!voice) return;
  if (voice.pending) voice.cancel();
  const utterance = new SpeechSynthesisUtterance(text);
  utterance.lang = language;
  voice.speak(utterance);
}
