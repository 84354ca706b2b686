import { restartSuite } from "./containerd-restart.ts";

restartSuite("1.7");
