import { restartSuite } from "./containerd-restart.ts";

restartSuite("system");
