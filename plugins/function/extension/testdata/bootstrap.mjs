// A runtime for functions in Node.js: the Runtime API of AWS Lambda, which Lambda's
// own runtime for Node.js speaks for the function.
const api = `http://${process.env.AWS_LAMBDA_RUNTIME_API}/2018-06-01/runtime`;
const [file, name] = process.env._HANDLER.split(".");
const post = (path, body) => fetch(`${api}/${path}`, { method: "POST", body: JSON.stringify(body) });

let handler;
try {
  handler = (await import(`${process.env.LAMBDA_TASK_ROOT}/${file}.mjs`))[name];
} catch (error) {
  await post("init/error", { errorType: error.name, errorMessage: error.message, stackTrace: [] });
  process.exit(1);
}
for (;;) {
  const next = await fetch(`${api}/invocation/next`);
  const id = next.headers.get("lambda-runtime-aws-request-id");
  const event = await next.json();
  try {
    await post(`invocation/${id}/response`, await handler(event));
  } catch (error) {
    await post(`invocation/${id}/error`, { errorType: error.name, errorMessage: error.message, stackTrace: [] });
  }
}
