/** One agent for all tests of a file. */
import { after, before } from "node:test";
import { ContainerWorld, type WorldOptions } from "./container-world.ts";

/** The world, once the file's tests run; disposed of after the last one. */
export function useWorld(options: WorldOptions = {}): () => ContainerWorld {
  let world: ContainerWorld | undefined;
  before(async () => {
    world = await ContainerWorld.start(options);
  });
  after(async () => {
    await world?.[Symbol.asyncDispose]();
  });
  return () => {
    if (world === undefined) throw new Error("the world exists only while tests run");
    return world;
  };
}
