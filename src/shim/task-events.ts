/** Task events as containerd knows them, from our objects. Never throws, never waits. */

import type { DescMessage, MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import {
  TaskCreateSchema,
  TaskDeleteSchema,
  TaskExecAddedSchema,
  TaskExecStartedSchema,
  TaskExitSchema,
  TaskOOMSchema,
  TaskPausedSchema,
  TaskResumedSchema,
  TaskStartSchema,
} from "../gen/containerd/events/task_pb.ts";
import type { ContainerProcess, ProcessExit } from "../runtime/container-process.ts";
import type { CreateTask } from "./create-task.ts";
import { topic } from "./event-publisher.ts";

/** Takes an event for delivery, in order. */
export interface EventSink {
  publish<D extends DescMessage>(topic: string, schema: D, message: MessageInitShape<D>): void;
}

export class TaskEvents {
  readonly #sink: EventSink;

  constructor(sink: EventSink) {
    this.#sink = sink;
  }

  created(task: CreateTask, pid: number): void {
    this.#sink.publish(topic.create, TaskCreateSchema, {
      containerId: task.id,
      bundle: task.bundle,
      rootfs: task.rootfs.map((mount) => ({
        type: mount.type,
        source: mount.source,
        options: [...mount.options],
      })),
      io: task.stdio,
      pid,
    });
  }

  started(process: ContainerProcess, pid: number): void {
    const { containerId, execId } = process;
    if (execId === "") this.#sink.publish(topic.start, TaskStartSchema, { containerId, pid });
    else this.#sink.publish(topic.execStarted, TaskExecStartedSchema, { containerId, execId, pid });
  }

  execAdded(containerId: string, execId: string): void {
    this.#sink.publish(topic.execAdded, TaskExecAddedSchema, { containerId, execId });
  }

  exited(process: ContainerProcess, pid: number, exit: ProcessExit): void {
    this.#sink.publish(topic.exit, TaskExitSchema, {
      containerId: process.containerId,
      id: process.execId === "" ? process.containerId : process.execId,
      pid,
      exitStatus: exit.status,
      exitedAt: timestampFromDate(exit.exitedAt),
    });
  }

  deleted(process: ContainerProcess, pid: number, exit: ProcessExit): void {
    this.#sink.publish(topic.delete, TaskDeleteSchema, {
      containerId: process.containerId,
      id: process.execId === "" ? process.containerId : process.execId,
      pid,
      exitStatus: exit.status,
      exitedAt: timestampFromDate(exit.exitedAt),
    });
  }

  outOfMemory(containerId: string): void {
    this.#sink.publish(topic.oom, TaskOOMSchema, { containerId });
  }

  paused(containerId: string): void {
    this.#sink.publish(topic.paused, TaskPausedSchema, { containerId });
  }

  resumed(containerId: string): void {
    this.#sink.publish(topic.resumed, TaskResumedSchema, { containerId });
  }
}
