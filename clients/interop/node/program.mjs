// Gives a client program its addresses and token, and prints what the program applies.

export const { SOCKET_URL: socketUrl, STREAM_URL: streamUrl, TOKEN: token, FAULT: fault } = process.env;

// The test closes stdin when it ends, also when it is killed.
process.stdin.on('end', () => process.exit()).resume();

const print = (frame) => process.stdout.write(`${JSON.stringify(frame)}\n`);

let count = 0;
let held;

/** Prints a notification. With FAULT it does wrong to the seventh one, which the test must report. */
export function apply(frame) {
  count += 1;
  if (!fault || count < 7 || count > 8) return print(frame);
  if (fault === 'drop') return count === 8 && print(frame);
  if (fault === 'repeat') return count === 7 ? [frame, frame].forEach(print) : print(frame);
  if (fault !== 'swap') throw new Error(`FAULT is drop, repeat or swap, not ${fault}`);
  if (count === 7) held = frame;
  else [frame, held].forEach(print);
}

// docs: begin
export const isFinal = (code) => code === 4004 || (code >= 4401 && code <= 4599); // needs the application
// docs: end
