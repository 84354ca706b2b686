import { restartSuite } from "./containerd-restart.ts";

restartSuite("2.1");
