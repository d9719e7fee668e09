// A Failure is an error that the reader of the job's log can do something
// about. Neither part may hold a secret.
export class Failure extends Error {
  // message says what went wrong, hint what to do; hint may be empty.
  constructor(message, hint = "") {
    super(message);
    this.hint = hint;
  }
}

// describe returns what to show of an error.
export function describe(error) {
  return error.hint ? `${error.message}\nhint: ${error.hint}` : error.message;
}
