// Structured outputs through OpenAI's Node client and the Vercel AI SDK, with OPENAI_BASE_URL and
// OPENAI_API_KEY set; runs where node_modules is (`make clients-node`).
import { readFileSync } from "node:fs";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, tool } from "ai";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const Day = z.object({
  day: z.number().int().min(1).max(31),
  month: z.enum(["October", "May"]),
  tags: z.array(z.enum(["a", "b"])).max(2),
});
const model = "builtin:tiny";
const question = "Oct 12, 2044";
const messages = [{ role: "user", content: question }];
const asked = { baseURL: process.env.OPENAI_BASE_URL, apiKey: process.env.OPENAI_API_KEY };

function version(name) {
  return JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version;
}

function worked(what, found) {
  Day.parse(found);
  console.log(what);
}

console.log(`openai (Node) ${version("openai")}`);
const chats = new OpenAI().chat.completions;
const parameters = z.toJSONSchema(Day);
for (const temperature of [0, 1]) {
  const parsed = await chats.parse({ model, messages, temperature, response_format: zodResponseFormat(Day, "day") });
  worked("chat.completions.parse", parsed.choices[0].message.parsed);
  const tools = [{ type: "function", function: { name: "day", parameters } }];
  for (const tool_choice of ["required", { type: "function", function: { name: "day" } }]) {
    const forced = await chats.create({ model, messages, temperature, tools, tool_choice });
    worked("forced tools", JSON.parse(forced.choices[0].message.tool_calls[0].function.arguments));
  }
}

console.log(`ai ${version("ai")}`);
const providers = {
  "@ai-sdk/openai": createOpenAI(asked).chat(model),
  "@ai-sdk/openai-compatible": createOpenAICompatible({ name: "own", supportsStructuredOutputs: true, ...asked })(model),
};
for (const [name, provider] of Object.entries(providers)) {
  for (const temperature of [0, 1]) {
    const common = { model: provider, prompt: question, temperature, maxRetries: 0 };
    worked(`generateObject, ${name} ${version(name)}`, (await generateObject({ ...common, schema: Day })).object);
    const called = await generateText({
      ...common,
      tools: { day: tool({ inputSchema: Day }) },
      toolChoice: "required",
    });
    worked(`generateText with a forced tool, ${name}`, called.toolCalls[0].input);
  }
}
